"""Kinds of model folders: of this package, of other libraries, and their files."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import read_model_json
from coca.core.registry import Registry
from coca.model.openclip.openclip_config import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from coca.model.pretrained import CONFIG_FILE, WEIGHTS_FILE
from coca.predict.embedding_predictor import EmbeddingPredictor
from coca.predict.image_text_predictor import Placement
from coca.predict.openclip_model import OpenCLIPPredictor
from coca.predict.transformers_model import TransformersPredictor
from coca.processing.caption_words import CAPTION_WORDS_FILE
from coca.processing.class_words import CLASS_WORDS_FILE
from coca.processing.processor import PROCESSOR_FILE, TOKENIZER_FILE

logger = logging.getLogger(__name__)

SOURCE_FILE = "source.json"
"""File with the origin of the weights and a caveat for users."""

MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, PROCESSOR_FILE)
"""Files of a model folder."""
FURTHER_FILES = (CAPTION_WORDS_FILE, CLASS_WORDS_FILE, SOURCE_FILE)
"""Files that a model folder may have."""

_TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)

MODEL_SUFFIXES = frozenset(
    (".bin", ".data", ".json", ".model", ".onnx", ".pt", ".pth", ".safetensors", ".txt")
)
"""Suffixes of the files of other libraries' models."""

TRANSFORMERS_TYPES = ("clip", "siglip", "siglip2", "chinese_clip", "altclip")
"""Values of `model_type` that `coca.predict.transformers_model` loads."""


@dataclass(frozen=True)
class ModelKind:
    """A library whose image-text models are loaded as they are."""

    is_kind: Callable[[Path], bool]
    """Check whether a folder contains a model of the library."""
    load: Callable[[Path, Placement], EmbeddingPredictor]
    """Load a folder: a class, or a function that imports the library when it is called."""
    choose: Callable[[Sequence[str]], Sequence[str]] | None = None
    """Choose the files of a repository of the Hugging Face hub that the model needs, for names
    such as `clap:ORGANISATION/NAME`. Default: the kind has no names of its own."""


MODELS: Registry[ModelKind] = Registry("kind of model", "models", ModelKind)
"""Kinds of models by library, which is the prefix of their names as well."""


def is_model(folder: Path) -> bool:
    """Check whether a folder contains a model in this package's format."""
    return (folder / CONFIG_FILE).is_file() and (folder / PROCESSOR_FILE).is_file()


def is_image_text(folder: Path) -> bool:
    """Check whether a folder contains an image-text model of another library."""
    return library_of(folder) is not None


def library_of(folder: Path) -> str | None:
    """Return the library whose image-text model a folder contains; None if it contains none."""
    if is_model(folder):
        return None
    return next((name for name in MODELS.names() if _is_kind(name, folder)), None)


def _is_kind(name: str, folder: Path) -> bool:
    try:
        return MODELS.get(name).is_kind(folder)
    except ConfigError as error:
        # A plug-in whose packages are missing must not stop other models.
        logger.debug("models of %s are not recognized: %s", name, error)
        return False


def is_openclip(folder: Path) -> bool:
    """Check whether a folder contains a model of OpenCLIP that is not a CoCa."""
    if is_model(folder) or not (folder / OPEN_CLIP_CONFIG).is_file():
        return False
    return not is_coca_config(folder / OPEN_CLIP_CONFIG)


def is_transformers(folder: Path) -> bool:
    """Check whether a folder contains an image-text model of transformers."""
    config = folder / CONFIG_FILE
    return not is_model(folder) and config.is_file() and _model_type(config) in TRANSFORMERS_TYPES


MODELS.register("openclip")(ModelKind(is_openclip, OpenCLIPPredictor))
MODELS.register("transformers")(ModelKind(is_transformers, TransformersPredictor))


def refuse_code(config: Path, source: str | Path) -> None:
    """Raise an error if a `config.json` needs Python code of its repository, as jina-clip does."""
    content = read_model_json(config)
    if isinstance(content, dict) and "AutoModel" in (content.get("auto_map") or {}):
        raise ModelError(
            f"{source} needs Python code of its repository ({content['auto_map']['AutoModel']}), "
            f"which is not run here; without code run {', '.join(TRANSFORMERS_TYPES)}"
        )


def is_transformers_config(path: Path) -> bool:
    """Check whether a `config.json` describes a model of transformers that is loaded here."""
    return _model_type(path) in TRANSFORMERS_TYPES


def _model_type(path: Path) -> Any:
    content = read_model_json(path)
    return content.get("model_type") if isinstance(content, dict) else None


def is_coca_config(path: Path) -> bool:
    """Check whether an `open_clip_config.json` describes a CoCa, or nothing that is known."""
    content = read_model_json(path)
    model = content.get("model_cfg", content) if isinstance(content, dict) else {}
    return "vision_cfg" not in model or "multimodal_cfg" in model


def is_tokenizer(name: str) -> bool:
    """Check by its name whether a file of a repository belongs to a tokenizer."""
    return name.endswith((".model", ".txt")) or name in _TOKENIZER_FILES


def weights_in(folder: Path) -> Path | None:
    """Return the OpenCLIP weights file in a folder, or None."""
    return next((path for name in OPEN_CLIP_WEIGHTS if (path := folder / name).is_file()), None)


def model_files(folder: Path) -> list[Path]:
    """List the files of a model of another library that determine its vectors.

    Weights, tokenizer and preprocessing are among them; texts for people are not.
    """
    found = (path for path in folder.rglob("*") if path.suffix in MODEL_SUFFIXES)
    return [path for path in found if path.is_file() and path != folder / SOURCE_FILE]
