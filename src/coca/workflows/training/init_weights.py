"""Weight initialization from another model, such as for the paper's stage at 576 pixels."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from coca.core.config.frozen_config import to_dict
from coca.core.errors import ConfigError
from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa
from coca.model.layers.transformer import unit
from coca.model.pretrained import architecture_of
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.processor import Processor

logger = logging.getLogger(__name__)

ENCODER = "image_encoder"

FREE_SETTINGS = (
    "image.image_size",
    "image.classes",
    "image.class_branch",
    "image.class_tokens",
    "initial_temperature",
    "initial_bias",
    "head",
)
"""Settings in which a model may differ from the model that initializes it."""


@dataclass(frozen=True)
class Adopted:
    """Summary of an initialization from another model."""

    source: str
    """Name or folder of the other model."""
    fingerprint: str
    """Fingerprint of the other model."""
    taken: int
    """Number of tensors copied unchanged."""
    resized: tuple[str, ...]
    """Tensors interpolated to another image size."""
    new: tuple[str, ...]
    """Tensors missing in the other model, which keep their new initialization."""
    left: tuple[str, ...]
    """Tensors of the other model that are not used."""


@torch.no_grad()
def adopt_weights(model: CoCa, source: TorchPredictor) -> Adopted:
    """Copy the weights of another model, interpolating position embeddings to the image size.

    A head or bias that only one of the models has is newly initialized or not used, with a warning;
    so is a head with another configuration.
    """
    theirs = source.model
    architecture, own_architecture = map(architecture_of, (theirs.config, model.config))
    if architecture != own_architecture:
        raise ConfigError(
            f"{source.source} has the architecture {architecture}, and the recipe trains "
            f"{own_architecture}; pass a model of the same architecture"
        )
    _require_same_shape(model, theirs, source.source)
    given = theirs.state_dict()
    own = model.state_dict()
    before = {name: tensor.shape for name, tensor in given.items()}
    for name, tensor in theirs.image_encoder.state_for(model.config.image.image_size).items():
        given[f"{ENCODER}.{name}"] = tensor
    resized = tuple(name for name in given if given[name].shape != before[name])
    same_head = model.config.head == theirs.config.head
    # Only heads and biases can differ; all other tensors exist in both models in the same shape.
    taken = [
        n
        for n in own
        if n in given
        and own[n].shape == given[n].shape
        and (same_head or not n.startswith("head."))
    ]
    for name in taken:
        own[name].copy_(given[name])
    adopted = Adopted(
        source=source.source,
        fingerprint=source.fingerprint,
        taken=len(taken) - len(resized),
        resized=resized,
        new=tuple(sorted({*own} - {*taken})),
        left=tuple(sorted({*given} - {*taken})),
    )
    _log(adopted)
    return adopted


@torch.no_grad()
def start_class_branch_(model: CoCa, processor: Processor) -> None:
    """Let the class branch start at the text embeddings of the class names, if it has names."""
    names = model.image_encoder.class_names
    if not isinstance(model, ClassCoCa) or model.class_branch is None or names is None:
        return
    texts = [class_texts(name) for name in names]
    tokens = processor.texts([text for own in texts for text in own])
    embedded = torch.cat([model.encode_text(some) for some in tokens.split(512)])
    means = [own.mean(dim=0)[None] for own in embedded.split([len(own) for own in texts])]
    model.class_branch.start_at(torch.cat([unit(mean) for mean in means]))


@torch.no_grad()
def name_class_tokens_(model: CoCa, processor: Processor) -> None:
    """Give the class tokens the text tokens of the first name of each class."""
    if not isinstance(model, ClassCoCa) or model.class_tokens is None:
        return
    names = model.image_encoder.class_names
    if names is None:
        raise ConfigError(
            f"image.class_tokens is {model.class_tokens.count}, but the classes have no names; set "
            "image.class_tokens to 0, or image.classes to 1000 for ImageNet"
        )
    model.class_tokens.names.fill_(-1)
    for row, name in zip(model.class_tokens.names, names, strict=True):
        ids = processor.tokenizer.leading_ids(name.partition(", ")[0], len(row))
        row[: len(ids)] = torch.tensor(ids)


def class_texts(name: str) -> list[str]:
    """Return the prompts of a class, for each of its names, which are separated by commas."""
    return [
        template.format(one)
        for one in name.split(", ")
        for template in ("a photo of a {}", "a {}", "a photo of the {}", "an image of a {}")
    ]


def _require_same_shape(model: CoCa, theirs: CoCa, source: str) -> None:
    here, there = (dict(_settings(to_dict(its.config))) for its in (model, theirs))
    changes = [
        f"model.{name} is {there.get(name)} there and {here.get(name)} here"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
        and not any(name == free or name.startswith(f"{free}.") for free in FREE_SETTINGS)
    ]
    if changes:
        raise ConfigError(
            f"{source} is another model: {'; '.join(changes)}; only "
            f"{', '.join(FREE_SETTINGS)} may differ"
        )


def _settings(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _log(adopted: Adopted) -> None:
    logger.info(
        "%s tensors copied from %s, %s resized", adopted.taken, adopted.source, adopted.resized
    )
    if adopted.new:
        logger.warning("%s has no %s; newly initialized", adopted.source, _parts(adopted.new))
    if adopted.left:
        logger.warning("%s of %s is not used", _parts(adopted.left), adopted.source)


def _parts(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
