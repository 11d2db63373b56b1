"""Conversion between OpenCLIP weights and model folders, and averages of weights."""

import logging
import shutil
from collections.abc import Sequence
from itertools import product
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
    SOURCE_FILE,
    is_model,
    weights_in,
)
from coca.inference.open_weights import OpenWeights, caveat_of, model_folder
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.backbone import BackboneConfig
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
    ModelConfig,
    load_config_file,
    load_model,
    save_model,
    write_modules,
)
from coca.processing.processor import TOKENIZER_FILE, Processor

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


def average(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    shares: Sequence[float] = (),
    class_scale: float | None = None,
) -> Path:
    """Average the weights of models that share their start (model soup, arXiv 2203.05482).

    Weights before and after a stage of training are averaged as well (WiSE-FT, arXiv 2109.01903).
    A class branch or a classifier of the image encoder that some models lack is the average of the
    others. All files except weights, configuration and `source.json` are those of the first model.

    Raises:
        ConfigError: There are fewer than 2 models, the shares do not fit them, or `class_scale` is
            below 0 or for models without a class branch.
        ModelError: A model cannot be read, or has another configuration or tokenizer.
    """
    shares = shares or [1.0] * len(sources)
    if len(sources) < 2 or len(shares) != len(sources) or min(shares) <= 0:
        raise ConfigError(
            f"an average needs at least 2 models, each with a share above 0; got {len(sources)} "
            f"models and the shares {', '.join(map(str, shares))}"
        )
    folders = [model_folder(source) for source in sources]
    configs = [load_config_file(folder) for folder in folders]
    whole = max(configs, key=_class_parts)
    vocabulary = (folders[0] / TOKENIZER_FILE).read_bytes()
    for source, folder, config in zip(sources, folders, configs, strict=True):
        same = {
            "configuration": config in _with_fewer_parts(whole),
            "tokenizer": (folder / TOKENIZER_FILE).read_bytes() == vocabulary,
        }
        for what, is_same in same.items():
            if not is_same:
                raise ModelError(
                    f"{source} has another {what} than {sources[0]}; only weights of the same "
                    "model can be averaged"
                )
    has_branch = _class_parts(whole)[0]
    if class_scale is not None and not (has_branch and class_scale >= 0):
        raise ConfigError(
            f"class_scale must be at least 0, for models with a class branch, got {class_scale} "
            f"and {'a' if has_branch else 'no'} class branch"
        )
    model = load_model(folders[configs.index(whole)])
    sums: dict[str, Tensor] = {}
    totals: dict[str, float] = {}
    for folder, share in zip(folders, shares, strict=True):
        for name, tensor in load_model(folder).state_dict().items():
            if not tensor.is_floating_point():
                continue
            sums[name] = sums.get(name, 0) + tensor.double() * share
            totals[name] = totals.get(name, 0.0) + share
    if class_scale is not None:
        sums["class_branch.scale"].fill_(class_scale * totals["class_branch.scale"])
    state = model.state_dict()
    model.load_state_dict(
        {**state, **{name: (it / totals[name]).to(state[name]) for name, it in sums.items()}}
    )
    with atomic_folder(Path(out)) as unfinished:
        _copy_files(folders[0], unfinished)
        save_model(unfinished, model)
        # The digest of a downloaded file is not that of the average; each caveat is kept.
        (unfinished / SOURCE_FILE).unlink(missing_ok=True)
        noted = [folder for folder in folders if (folder / SOURCE_FILE).is_file()]
        if caveats := [caveat for folder in noted if (caveat := caveat_of(folder))]:
            content = {"source": "an average of weights", "caveat": "; ".join(caveats)}
            write_json(unfinished / SOURCE_FILE, content)
    return Path(out)


def _class_parts(config: ModelConfig) -> tuple[bool, int, int]:
    """Return whether there is a class branch, and the numbers of class tokens and of classes."""
    image = config.image
    if not isinstance(image, BackboneConfig):
        return False, 0, 0
    return image.class_branch, image.class_tokens, image.classes


def _with_fewer_parts(config: ModelConfig) -> list[ModelConfig]:
    """Return a configuration, and those without class branch, class tokens and classifier."""
    if not isinstance(config, CoCaConfig) or not isinstance(image := config.image, BackboneConfig):
        return [config]
    parts = [
        *product((image.class_branch, False), (image.class_tokens, 0), (image.classes,)),
        (False, 0, 0),
    ]
    return [
        config.replace(image=image.replace(class_branch=branch, class_tokens=n, classes=classes))
        for branch, n, classes in parts
    ]


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
