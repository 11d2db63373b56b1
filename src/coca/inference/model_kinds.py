"""Kinds of model folders: of this package, of other libraries, and their files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from coca.core.errors import ModelError
from coca.core.files.atomic import read_model_json
from coca.inference.clap_model import ClapPredictor
from coca.inference.openclip_model import OpenCLIPPredictor
from coca.inference.sentence_transformers_model import SentenceTransformersPredictor
from coca.inference.transformers_model import TransformersPredictor
from coca.model.openclip.openclip_config import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from coca.model.pretrained import CONFIG_FILE, MODULES_FILE, WEIGHTS_FILE
from coca.processing.processor import PROCESSOR_FILE, TOKENIZER_FILE
from coca.runtime.caption_words import CAPTION_WORDS_FILE
from coca.runtime.files import is_immich

SOURCE_FILE = "source.json"
"""File with the origin of the weights and a caveat for users."""

MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, PROCESSOR_FILE)
"""Files of a model folder."""
FURTHER_FILES = (CAPTION_WORDS_FILE, SOURCE_FILE)
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
"""Values of `model_type` that `coca.inference.transformers_model` loads."""


CLAP_TYPES = ("clap",)
"""Values of `model_type` that `coca.inference.clap_model` loads."""


Library: TypeAlias = Literal["clap", "immich", "openclip", "sentence_transformers", "transformers"]
"""Library whose models are loaded as they are."""
PREDICTORS: Mapping[
    Library,
    type[ClapPredictor]
    | type[OpenCLIPPredictor]
    | type[SentenceTransformersPredictor]
    | type[TransformersPredictor],
] = {
    "clap": ClapPredictor,
    "openclip": OpenCLIPPredictor,
    "sentence_transformers": SentenceTransformersPredictor,
    "transformers": TransformersPredictor,
}
"""Classes that load the models of a library by torch; they import it when they do."""


def is_model(folder: Path) -> bool:
    """Check whether a folder contains a model in this package's format."""
    return (folder / CONFIG_FILE).is_file() and (folder / PROCESSOR_FILE).is_file()


def is_image_text(folder: Path) -> bool:
    """Check whether a folder contains an image-text model of another library."""
    return library_of(folder) is not None


def library_of(folder: Path) -> Library | None:
    """Return the library whose image-text model a folder contains; None if it contains none."""
    kinds: dict[Library, Callable[[Path], bool]] = {
        "clap": is_clap,
        "immich": is_immich,
        "openclip": is_openclip,
        "sentence_transformers": is_sentence_transformers,
        "transformers": is_transformers,
    }
    return next((library for library, is_kind in kinds.items() if is_kind(folder)), None)


def is_openclip(folder: Path) -> bool:
    """Check whether a folder contains a model of OpenCLIP that is not a CoCa."""
    if is_model(folder) or not (folder / OPEN_CLIP_CONFIG).is_file():
        return False
    return not is_coca_config(folder / OPEN_CLIP_CONFIG)


def is_transformers(folder: Path) -> bool:
    """Check whether a folder contains an image-text model of transformers."""
    config = folder / CONFIG_FILE
    return not is_model(folder) and config.is_file() and _model_type(config) in TRANSFORMERS_TYPES


def is_clap(folder: Path) -> bool:
    """Check whether a folder contains a CLAP model of transformers."""
    config = folder / CONFIG_FILE
    return not is_model(folder) and config.is_file() and _model_type(config) in CLAP_TYPES


def is_sentence_transformers(folder: Path) -> bool:
    """Check whether a folder contains a model of sentence-transformers, not one of this package."""
    if not (folder / MODULES_FILE).is_file():
        return False
    modules = read_model_json(folder / MODULES_FILE)
    kinds = [str(it.get("type")) for it in modules] if isinstance(modules, list) else []
    return not any(kind.startswith("coca.") for kind in kinds)


def refuse_code(config: Path, source: str | Path) -> None:
    """Raise an error if a `config.json` needs Python code of its repository, as jina-clip does."""
    content = read_model_json(config)
    if isinstance(content, dict) and "AutoModel" in (content.get("auto_map") or {}):
        raise ModelError(
            f"{source} needs Python code of its repository ({content['auto_map']['AutoModel']}), "
            f"which is not run here; without code run "
            f"{', '.join((*TRANSFORMERS_TYPES, *CLAP_TYPES))}"
        )


def is_transformers_config(path: Path) -> bool:
    """Check whether a `config.json` describes a model of transformers that is loaded here."""
    return _model_type(path) in (*TRANSFORMERS_TYPES, *CLAP_TYPES)


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
