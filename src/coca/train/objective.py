"""Training objectives: what a step minimizes, and the metrics it reports.

On several ranks, the mean over ranks of the losses, and of their gradients, equals the result of
one process on all pairs. So all tokens and all labelled images have equal weight, on any rank and
in any micro-batch.

Dimensions: B pairs, E embedding, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.core.registry import Registry
from coca.data.batch import Batch
from coca.model.captioner import Captioner, CoCaOutput
from coca.model.losses.captioning_loss import captioning_loss, classification_loss
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.model.losses.contrastive_loss import (
    BLOCK_ROWS,
    ContrastiveOutput,
    contrastive_loss,
    sigmoid_loss,
)
from coca.processing.processor import Processor


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig(Config):
    """Settings that all auxiliary losses share; the class of a kind adds its own."""

    kind: str
    """A registered auxiliary loss."""
    weight: NonNegativeFloat = 1.0
    """Weight of the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        AUXILIARY_LOSSES.get(self.kind)

    @classmethod
    def kinds(cls) -> Mapping[str, type["AuxiliaryConfig"]]:
        """Return the classes of settings by kind."""
        return {name: AUXILIARY_LOSSES.get(name).config_class for name in AUXILIARY_LOSSES.names()}


@dataclass(frozen=True, kw_only=True)
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

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [f"{kind}_weight" for kind in ("contrastive", "captioning", "classification")]
        if not any(getattr(self, name) for name in names) and not self.auxiliary:
            raise ConfigError(f"all losses have weight 0; set one of {', '.join(names)}")
        CONTRASTIVE_LOSSES.get(self.contrastive)
        if self.contrastive == "sigmoid" and self.contrastive_reduction == "mean":
            raise ConfigError(
                "contrastive_reduction is mean, but the sigmoid loss has no two directions; "
                "leave it at sum"
            )


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
    def __init__(self, config: Any, model: Captioner, processor: Processor) -> None:
        """Create the loss of a run."""

    @abstractmethod
    def __call__(self, model: Captioner, batch: Batch, output: CoCaOutput) -> Float[Tensor, ""]:
        """Compute the mean over the images of a batch or micro-batch, in nats."""


AUXILIARY_LOSSES: Registry[type[AuxiliaryLoss]] = Registry("auxiliary loss", "auxiliary_losses")


class Totals(NamedTuple):
    """Numbers of the whole batch, so that the losses of micro-batches add up."""

    token_weight: Float[Tensor, ""]
    """Weight of each token: number of ranks / number of tokens of all ranks."""
    image_weight: Float[Tensor, ""]
    """Weight of each labelled image: number of ranks / labelled images of all ranks."""
    pairs: int
    """Pairs of the whole batch, of which a micro-batch has a part."""


ModelT_contra = TypeVar("ModelT_contra", bound=nn.Module, contravariant=True)


@runtime_checkable
class Objective(Protocol[ModelT_contra]):
    """Interface of training objectives, for one kind of model."""

    def __call__(self, model: ModelT_contra, batch: Batch) -> Losses:
        """Compute the losses of one batch, in one forward pass."""
        ...

    def constrain_(self, model: ModelT_contra) -> None:
        """Clamp parameters to their range; called after each update."""
        ...


@runtime_checkable
class ChunkedLoss(Objective[ModelT_contra], Protocol[ModelT_contra]):
    """An objective that supports micro-batches, with losses over the whole batch.

    The contrastive loss depends on embeddings only. So they are computed first for each micro-batch
    without graph. Its gradient with respect to them replaces the loss in the second pass.
    """

    def totals(self, model: ModelT_contra, batch: Batch) -> Totals:
        """Compute the numbers of the whole batch; all ranks must call it."""
        ...

    def first_pass(self, model: ModelT_contra, batch: Batch) -> Embedded | None:
        """Compute the inputs of the contrastive loss; None without one."""
        ...

    def match(self, embedded: Embedded) -> Losses:
        """Compute the weighted contrastive loss of all pairs; all ranks must call it."""
        ...

    def run_part(
        self, model: ModelT_contra, batch: Batch, totals: Totals, gradient: Embedded | None
    ) -> Losses:
        """Compute the per-sample losses of a micro-batch, and backpropagate that of `match`.

        Args:
            model: The model; it runs once.
            batch: The micro-batch.
            totals: Weights of the whole batch.
            gradient: Gradient of `match` with respect to the embeddings of `first_pass`.
        """
        ...


class CoCaObjective:
    """The losses of a Contrastive Captioner from one forward pass.

    Parts: `contrastive`, `captioning` and `classification`, if their weight is above 0, and the
    auxiliary losses by their kind. With the first also `temperature` and `image_to_text@1`, the
    fraction of images whose own caption is the nearest of the batch (chance level: 1 / batch size).
    """

    def __init__(self, config: LossConfig, auxiliary: Sequence[AuxiliaryLoss] = ()) -> None:
        """Create the objective, with the losses of `config.auxiliary` in their order."""
        self.config, self.auxiliary = config, auxiliary

    def __call__(self, model: Captioner, batch: Batch) -> Losses:
        """Compute the weighted sum of the losses and its parts."""
        self._require_fit(model, batch)
        return self.of_output(model, batch, self._run(model, batch))

    def constrain_(self, model: Captioner) -> None:
        """Clamp the learned temperature to its range."""
        model.clamp_temperature_()

    def of_output(self, model: Captioner, batch: Batch, output: CoCaOutput) -> Losses:
        """Compute the losses of a batch from the output of the model; all ranks must call it.

        Args:
            model: The model.
            batch: The whole batch of this rank.
            output: Output of the model for the batch.
        """
        losses = self._sum_up(model, batch, output, self.totals(model, batch))
        embedded = _embedded(model, output) if self.config.contrastive_weight else None
        return losses if embedded is None else add_losses(self.match(embedded), losses)

    def totals(self, model: Captioner, batch: Batch) -> Totals:
        """Count tokens and labelled images over all ranks, as weights."""
        counts = torch.zeros(2, device=batch.tokens.device)
        captioned = batch.is_captioned
        if self.config.captioning_weight > 0:
            labels = model.label_mask(batch.tokens)
            counts[0] = (labels if captioned is None else labels & captioned[:, None]).sum()
        if self.config.classification_weight > 0 and batch.class_targets is not None:
            counts[1] = _labelled(batch.class_targets).sum()
        # A batch that is split into micro-batches is still on the host.
        counts = counts.to(model.log_scale.device)
        token, image = (world_size() / all_reduce_sum(counts).clamp(min=1)).unbind()
        return Totals(token, image, len(batch.keys))

    def first_pass(self, model: Captioner, batch: Batch) -> Embedded | None:
        """Run the image encoder, the poolers and the unimodal decoder."""
        self._require_fit(model, batch)
        if not self.config.contrastive_weight:
            return None
        return _embedded(model, model(batch.images, batch.tokens, captioning=False))

    def match(self, embedded: Embedded) -> Losses:
        """Compute the contrastive loss of the pairs of all ranks, and its metrics."""
        contrast = CONTRASTIVE_LOSSES.get(self.config.contrastive)(embedded, self.config)
        parts = {
            "contrastive": contrast.loss.detach(),
            "temperature": 1 / embedded.scale.detach(),
            "image_to_text@1": contrast.image_to_text,
        }
        return Losses(self.config.contrastive_weight * contrast.loss, parts)

    def run_part(
        self, model: Captioner, batch: Batch, totals: Totals, gradient: Embedded | None
    ) -> Losses:
        """Compute all losses of a micro-batch but the contrastive one."""
        self._require_fit(model, batch)
        output = self._run(model, batch)
        losses = self._sum_up(model, batch, output, totals)
        embedded = _embedded(model, output)
        if gradient is None or embedded is None:
            return losses
        return losses._replace(total=losses.total + _surrogate_loss(embedded, gradient))

    def _run(self, model: Captioner, batch: Batch) -> CoCaOutput:
        config = self.config
        return model(
            batch.images,
            batch.tokens,
            contrastive=config.contrastive_weight > 0 or bool(self.auxiliary),
            captioning=config.captioning_weight > 0,
            classification=config.classification_weight > 0,
            prompt_lengths=batch.prompt_lengths,
            is_captioned=batch.is_captioned,
        )

    def _sum_up(self, model: Captioner, batch: Batch, output: CoCaOutput, totals: Totals) -> Losses:
        """Compute the per-sample losses."""
        config = self.config
        total = model.log_scale.new_zeros(())
        parts = {}
        if output.caption_states is not None and output.caption_targets is not None:
            loss = captioning_loss(
                output.caption_states,
                output.caption_targets,
                model.vocabulary_weight,
                chunk_size=config.caption_chunk,
                label_smoothing=config.label_smoothing,
                token_weight=totals.token_weight,
            )
            total = total + config.captioning_weight * loss
            parts["captioning"] = loss.detach()
        if output.class_logits is not None and batch.class_targets is not None:
            labelled = _labelled(batch.class_targets)
            loss = classification_loss(
                output.class_logits[labelled],
                batch.class_targets[labelled],
                label_smoothing=config.label_smoothing
                if config.class_smoothing is None
                else config.class_smoothing,
                image_weight=totals.image_weight,
            )
            total = total + config.classification_weight * loss
            parts["classification"] = loss.detach()
        part = len(batch.keys) / totals.pairs
        for settings, auxiliary in zip(config.auxiliary, self.auxiliary, strict=True):
            loss = auxiliary(model, batch, output) * part
            total = total + settings.weight * loss
            parts[settings.kind] = loss.detach()
        return Losses(total, parts)

    def _require_fit(self, model: Captioner, batch: Batch) -> None:
        config = self.config
        if config.contrastive_weight > 0:
            if config.contrastive == "sigmoid" and model.logit_bias is None:
                raise ConfigError(
                    "contrastive is sigmoid, which needs a model with a bias; set its "
                    "initial_bias, for instance to -10, or contrastive to softmax"
                )
            if config.contrastive == "softmax" and model.logit_bias is not None:
                raise ConfigError(
                    "contrastive is softmax, which no bias can change, but the model has one; "
                    "set its initial_bias to null or contrastive to sigmoid"
                )
        weight = config.classification_weight
        if weight > 0 and model.head is None:
            raise ConfigError(
                f"classification_weight is {weight}, but the model has no head; give it one, or "
                "set the weight to 0"
            )
        if weight > 0 and batch.class_targets is None:
            raise ConfigError(
                f"classification_weight is {weight}, but the data carry no classes; "
                "set the weight to 0"
            )


def add_losses(first: Losses, second: Losses) -> Losses:
    """Add losses and their parts; a part of only one of them is kept as it is."""
    parts = dict(first.parts)
    for name, value in second.parts.items():
        parts[name] = parts[name] + value if name in parts else value
    return Losses(first.total + second.total, parts)


def _embedded(model: Captioner, output: CoCaOutput) -> Embedded | None:
    if output.image_embedding is None or output.text_embedding is None:
        return None
    return Embedded(
        output.image_embedding, output.text_embedding, model.logit_scale, model.logit_bias
    )


def _surrogate_loss(embedded: Embedded, gradient: Embedded) -> Float[Tensor, ""]:
    """Compute a zero-valued loss whose gradient with respect to `embedded` is `gradient`."""
    products = [
        (tensor.float() * partial).sum()
        for tensor, partial in zip(embedded, gradient, strict=True)
        if tensor is not None and partial is not None
    ]
    total = torch.stack(products).sum()
    return total - total.detach()


def _labelled(targets: Float[Tensor, "B C"]) -> Bool[Tensor, " B"]:
    return targets.sum(dim=1) > 0
