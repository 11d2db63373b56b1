"""Losses of training: their configuration, and the registries of contrastive and auxiliary losses.

Dimensions: B pairs, E embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.core.registry import Registry
from coca.data.batch import Batch
from coca.model.coca import CoCa, CoCaOutput
from coca.model.losses.contrastive_loss import (
    BLOCK_ROWS,
    ContrastiveOutput,
    contrastive_loss,
    sigmoid_loss,
)
from coca.processing.processor import Processor


class AuxiliaryConfig(Config):
    """Settings that all auxiliary losses share; the class of a kind adds its own."""

    kind: str
    """A registered auxiliary loss."""
    weight: NonNegativeFloat = 1.0
    """Weight of the loss."""

    @model_validator(mode="after")
    def _check_rules(self) -> "AuxiliaryConfig":
        AUXILIARY_LOSSES.get(self.kind)
        return self

    @classmethod
    def kinds(cls) -> Mapping[str, type["AuxiliaryConfig"]]:
        """Return the classes of settings by kind."""
        return {name: AUXILIARY_LOSSES.get(name).config_class for name in AUXILIARY_LOSSES.names()}


class LossConfig(Config):
    """Loss weights and options; a loss with weight 0 is not computed, nor is its tower run."""

    contrastive_weight: NonNegativeFloat = 1.0
    """Weight of the contrastive loss; 1 in the paper."""
    captioning_weight: NonNegativeFloat = 2.0
    """Weight of the captioning loss (next-token prediction); 2 in the paper."""
    classification_weight: NonNegativeFloat = 0.0
    """Weight of the classification loss of the model's head, for fine-tuning on classes or answers.
    The paper does not use it in pretraining."""
    contrastive: str = "softmax"
    """A registered contrastive loss. `softmax` classifies the partner within the batch, as in the
    paper. `sigmoid` classifies each pair independently, as in SigLIP, and needs a model with a bias
    (`initial_bias`). A plugin may register others."""
    contrastive_reduction: Literal["sum", "mean"] = "sum"
    """`sum` adds both directions, as in the paper; `mean` averages them, as in OpenCLIP."""
    contrastive_rows: PositiveInt = BLOCK_ROWS
    """Images per block of similarities to all captions."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of each target, token or class, that is spread evenly over all of them, the target
    included; 0 to below 1."""
    class_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    """`label_smoothing` of the classification loss; null: the same as for tokens."""
    caption_chunk: PositiveInt = 1024
    """Tokens per chunk of logits; smaller chunks need less memory but more matrix products."""
    auxiliary: tuple[AuxiliaryConfig, ...] = ()
    """Further losses, of kinds that plug-ins register."""

    @model_validator(mode="after")
    def _check_rules(self) -> "LossConfig":
        names = [f"{kind}_weight" for kind in ("contrastive", "captioning", "classification")]
        if not any(getattr(self, name) for name in names) and not self.auxiliary:
            raise ConfigError(f"all losses have weight 0; set one of {', '.join(names)}")
        CONTRASTIVE_LOSSES.get(self.contrastive)
        if self.contrastive == "sigmoid" and self.contrastive_reduction == "mean":
            raise ConfigError(
                "contrastive_reduction is mean, but the sigmoid loss has no two directions; "
                "leave it at sum"
            )
        return self


class Losses(NamedTuple):
    """Losses of one batch or micro-batch.

    A tuple, so that wrappers such as DDP find the tensors in it.
    """

    total: Float[Tensor, ""]
    """The loss to minimize; carries the graph."""
    parts: dict[str, Float[Tensor, ""]]
    """Single losses and metrics by name, unweighted and without graph."""


class Embedded(NamedTuple):
    """Inputs of the contrastive loss: embeddings, logit scale and bias."""

    images: Float[Tensor, "B E"]
    texts: Float[Tensor, "B E"]
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None


def add_losses(first: Losses, second: Losses) -> Losses:
    """Add losses and their parts; a part of only one of them is kept as it is."""
    parts = dict(first.parts)
    for name, value in second.parts.items():
        parts[name] = parts[name] + value if name in parts else value
    return Losses(first.total + second.total, parts)


ContrastiveLoss: TypeAlias = Callable[[Embedded, LossConfig], ContrastiveOutput]
"""Contrastive loss of the pairs of all ranks, from this rank's embeddings."""

CONTRASTIVE_LOSSES: Registry[ContrastiveLoss] = Registry("contrastive loss", "losses")


@CONTRASTIVE_LOSSES.register("softmax")
def _softmax(embedded: Embedded, config: LossConfig) -> ContrastiveOutput:
    return contrastive_loss(
        embedded.images,
        embedded.texts,
        embedded.scale,
        reduction=config.contrastive_reduction,
        block_rows=config.contrastive_rows,
    )


@CONTRASTIVE_LOSSES.register("sigmoid")
def _sigmoid(embedded: Embedded, config: LossConfig) -> ContrastiveOutput:
    images, texts, scale, bias = embedded
    assert bias is not None, "checked by the objective"
    return sigmoid_loss(images, texts, scale, bias, block_rows=config.contrastive_rows)


class AuxiliaryLoss(ABC):
    """A loss of the outputs of a model, added to the others with its weight.

    It is created before the optimizer, on all ranks, and may add parameters to the model. Those of
    a parametrization with the parts of `coca.model.lora.LowRank` are merged into its weight when
    the run is finished.
    """

    config_class: ClassVar[type[AuxiliaryConfig]]
    """Class of its settings."""

    @abstractmethod
    def __init__(self, config: Any, model: CoCa, processor: Processor) -> None:
        """Create the loss of a run."""

    @abstractmethod
    def __call__(self, model: CoCa, batch: Batch, output: CoCaOutput) -> Float[Tensor, ""]:
        """Compute the mean over the images of a batch or micro-batch, in nats."""


AUXILIARY_LOSSES: Registry[type[AuxiliaryLoss]] = Registry("auxiliary loss", "auxiliary_losses")
