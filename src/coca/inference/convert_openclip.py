"""Conversion of OpenCLIP weights to a model folder, with tokenizer and preprocessing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from coca.core.config.serialization import from_dict
from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import (
    atomic_folder,
    read_json,
    read_model_json,
    sha256_file,
    write_atomic,
)
from coca.model.openclip.config import OpenCLIPConfig, from_open_clip
from coca.model.openclip.state_dict_io import read_state
from coca.model.openclip.weights import (
    config_of_weights,
    convert_state_dict,
    restore_state_dict,
)
from coca.model.pretrained import assemble, build_on_meta, save_model
from coca.processing.clip_bpe import read_vocabulary
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor

SOURCE_FILE = "source.json"
"""File with the origin of the weights and a caveat for users."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's training images per RGB channel, for values in [0, 1]."""

_RESIZE = {"shortest": "shortest", "squash": "squash"}


@dataclass(frozen=True)
class About:
    """Content of an `open_clip_config.json`."""

    model: OpenCLIPConfig
    """Configuration of the model."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """OpenCLIP's `preprocess_cfg`; missing keys are as for CLIP."""


def read_about(path: Path) -> About:
    """Read an `open_clip_config.json`, or a file with its `model_cfg` only.

    Raises:
        ModelError: The file cannot be read, or describes another kind of model.
    """
    content = read_model_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold one JSON object")
    try:
        return About(
            from_open_clip(content.get("model_cfg", content)), content.get("preprocess_cfg") or {}
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def import_weights(
    weights: Path,
    folder: Path,
    *,
    vocabulary: Path,
    about: About | None = None,
    source: str,
    caveat: str = "",
) -> None:
    """Convert a file of OpenCLIP weights to a model folder, atomically.

    Args:
        weights: A state dict of OpenCLIP's CoCa; see `read_state`.
        folder: Output folder; an existing one is replaced.
        vocabulary: CLIP's vocabulary; see `read_vocabulary`.
        about: Configuration of the weights; default: inferred from their shapes.
        source: Name under which the weights were requested.
        caveat: Warning for users of the weights; default: none.

    Raises:
        ModelError: Weights or configuration cannot be used.
    """
    state = read_state(weights)
    try:
        about = about or About(config_of_weights(state))
        _require_shapes(about.model, state)
        converted = convert_state_dict(state, about.model)
    except ModelError as error:
        raise ModelError(f"{weights} cannot be used: {error}") from error
    model = assemble(about.model, converted, source=weights)
    image = ImageTransform(_image_config(about))
    processor = Processor(image, read_vocabulary(vocabulary), about.model.text.context_length)
    known = {"source": source, "file": weights.name, "sha256": sha256_file(weights)}
    with atomic_folder(folder) as unfinished:
        save_model(unfinished, model)
        processor.save(unfinished)
        text = json.dumps(known | ({"caveat": caveat} if caveat else {}), indent=2) + "\n"
        write_atomic(unfinished / SOURCE_FILE, text.encode())


def _require_shapes(config: OpenCLIPConfig, state: Mapping[str, Tensor]) -> None:
    """Compare shapes under OpenCLIP's names, which match the names in the file."""
    wanted = restore_state_dict(build_on_meta(config).state_dict(), config)
    for name in wanted.keys() & state.keys():
        given, asked = tuple(state[name].shape), tuple(wanted[name].shape)
        # A scale may be a scalar or a vector of length 1.
        if given != asked and {given, asked} != {(), (1,)}:
            raise ModelError(f"{name} has shape {given}, but the configuration asks for {asked}")


def caveat_of(folder: Path) -> str:
    """Read the caveat of a folder's model; usually empty.

    Raises:
        ModelError: The folder's `source.json` is damaged.
    """
    path = folder / SOURCE_FILE
    if not path.is_file():
        return ""
    try:
        return str(read_json(path).get("caveat", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


def _image_config(about: About) -> ImageConfig:
    given = about.preprocess
    resize = given.get("resize_mode", "shortest")
    if resize not in _RESIZE:
        raise ModelError(
            f"images resized by {resize!r} are unknown here; known: {', '.join(_RESIZE)}"
        )
    content = {
        "image_size": about.model.image.image_size,
        "resize": _RESIZE[resize],
        "mean": given.get("mean", OPENAI_MEAN),
        "std": given.get("std", OPENAI_STD),
        "interpolation": given.get("interpolation", "bicubic"),
    }
    try:
        return from_dict(ImageConfig, content, source="preprocess_cfg")
    except ConfigError as error:
        raise ModelError(str(error)) from None
