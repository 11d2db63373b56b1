"""Conversion between OpenCLIP weights and model folders."""

import logging
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor

from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import atomic_folder, write_json
from coca.inference.model_kinds import (
    FURTHER_FILES,
    MODEL_FILES,
    is_model,
    weights_in,
)
from coca.inference.open_weights import OpenWeights, model_folder
from coca.model.openclip.openclip_config import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    OpenCLIPConfig,
    differences,
    to_open_clip,
)
from coca.model.openclip.openclip_weights import config_of_weights, restore_state_dict
from coca.model.openclip.state_dict_io import SUFFIXES, read_state
from coca.model.pretrained import (
    WEIGHTS_FILE,
    load_config_file,
    write_modules,
)
from coca.processing.processor import Processor

logger = logging.getLogger(__name__)

Format: TypeAlias = Literal["coca", "openclip"]
"""Output format: `coca` is a model folder, `openclip` the files that OpenCLIP reads."""

# Resize modes that have another name in OpenCLIP; the others have the same name.
_RESIZE_MODES = {"crop": "shortest", "pad": "longest"}


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: Format | None = None,
    vocabulary: str | Path | None = None,
) -> Path:
    """Convert a model to a model folder or to OpenCLIP's format.

    Returns:
        The written path.

    Raises:
        ModelError: The source is not a model, OpenCLIP has no such architecture, or the format
            cannot store a setting that changes the model's output.
        ConfigError: `to` is `coca`, and `out` is a file.
    """
    out = Path(out)
    is_file = out.suffix in SUFFIXES
    if to == "coca" and is_file:
        raise ConfigError(f"{out} is a file, but a model's folder is to be written; name a folder")
    path = Path(source)
    weights = OpenWeights(vocabulary=None if vocabulary is None else Path(vocabulary))
    foreign = path.is_file() or (not is_model(path) and path.is_dir() and bool(weights_in(path)))
    if to == "openclip" or (to is None and is_file):
        return _for_open_clip(model_folder(source, open_weights=weights), out)
    if foreign:
        return weights.local(path, into=out)
    return copy_model(model_folder(source, open_weights=weights), out)


def copy_model(folder: Path, out: Path) -> Path:
    """Copy the model files of a folder, and no others."""
    with atomic_folder(out) as unfinished:
        _copy_files(folder, unfinished)
    return out


def _copy_files(folder: Path, out: Path) -> None:
    names = [*MODEL_FILES, *(name for name in FURTHER_FILES if (folder / name).is_file())]
    for name in names:
        shutil.copyfile(folder / name, out / name)
    write_modules(out)


def _for_open_clip(folder: Path, out: Path) -> Path:
    config = load_config_file(folder)
    if not isinstance(config, OpenCLIPConfig):
        raise ModelError(
            f"{folder} has a CoCa of the paper's architecture, for which OpenCLIP has no model; "
            "only weights that came from OpenCLIP can go back to it"
        )
    if config.head is not None:
        logger.warning("the head of %s is left out: OpenCLIP has none", folder)
    state = restore_state_dict(read_state(folder / WEIGHTS_FILE), config)
    if out.suffix not in SUFFIXES:
        with atomic_folder(out) as unfinished:
            _write_state(state, unfinished / OPEN_CLIP_WEIGHTS[0])
            write_json(unfinished / OPEN_CLIP_CONFIG, _about(config, folder))
        return out
    if lost := _not_in_weights(state, config):
        raise ModelError(
            f"{out} would contain weights alone and lose {lost}; name a folder to write the "
            "configuration as well"
        )
    unfinished = out.with_name(f".incomplete-{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_state(state, unfinished)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return out


def _not_in_weights(state: dict[str, Tensor], config: OpenCLIPConfig) -> str:
    """Describe the settings that a weights file alone cannot store; empty if none."""
    try:
        return differences(config, config_of_weights(state))
    except ModelError:
        return "how many heads the model has"


def _write_state(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)


def _about(config: OpenCLIPConfig, folder: Path) -> dict[str, Any]:
    """Build the content of `open_clip_config.json`."""
    image = Processor.load(folder).image_config
    return {
        "model_cfg": to_open_clip(config),
        "preprocess_cfg": {
            "size": image.image_size,
            "mode": "RGB",
            "mean": list(image.mean),
            "std": list(image.std),
            "interpolation": image.interpolation,
            "resize_mode": _RESIZE_MODES.get(image.resize, image.resize),
            "fill_color": 255,
        },
    }
