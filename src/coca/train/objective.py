"""What a training step minimises: the weighted sum of CoCa's losses (section 3.2), in nats.

On several ranks every loss is a rank's share: the mean over ranks of the losses, and of their
gradients, is what one process would get from the pairs of all. Words and labelled images
therefore count alike, whichever rank, or part of a step, they are in.

Dimensions: B pairs at hand, E embedding, C classes.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.data.sample import Batch
from coca.model.captioner import Captioner, CoCaOutput
from coca.model.losses.captioning import captioning_loss, classification_loss
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.model.losses.contrastive import BLOCK_ROWS, Contrast, contrastive_loss, sigmoid_loss


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses; a loss of weight 0 costs nothing, its tower is not run."""

    contrastive_weight: float = 1.0
    """Weight of matching images and captions; 1 in the paper."""
    captioning_weight: float = 2.0
    """Weight of predicting each next word; 2 in the paper."""
    classification_weight: float = 0.0
    """Weight of naming classes by the model's head: what fine-tuning for classes or answers
    minimises. In pretraining the paper has no such loss."""
    contrastive: Literal["softmax", "sigmoid"] = "softmax"
    """`softmax` picks the partner among the batch, as the paper; `sigmoid` judges each pair alone,
    as SigLIP, and needs a model with a bias (`initial_bias`)."""
    contrastive_reduction: Literal["sum", "mean"] = "sum"
    """`sum` adds both directions, as the paper; `mean` averages them, as OpenCLIP."""
    contrastive_rows: int = BLOCK_ROWS
    """Pictures whose similarities to all captions exist at one time."""
    label_smoothing: float = 0.0
    """Fraction of each target, token or class, that is spread evenly over all of them, the target
    included; 0 to below 1."""
    class_smoothing: float | None = None
    """The same for classes alone, where it differs from that of words; null: as for words."""
    caption_chunk: int = 1024
    """Words whose logits exist at one time; less memory against more, smaller products."""

    def __post_init__(self) -> None:
        names = ("contrastive_weight", "captioning_weight", "classification_weight")
        for name in names:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0 (got {getattr(self, name)})")
        if not any(getattr(self, name) for name in names):
            raise ConfigError(f"all losses have weight 0; set one of {', '.join(names)}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"label_smoothing must be at least 0 and below 1 (got {self.label_smoothing})"
            )
        if self.class_smoothing is not None and not 0 <= self.class_smoothing < 1:
            raise ConfigError(
                f"class_smoothing must be at least 0 and below 1 (got {self.class_smoothing})"
            )
        for name in ("caption_chunk", "contrastive_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 (got {getattr(self, name)})")
        if self.contrastive == "sigmoid" and self.contrastive_reduction == "mean":
            raise ConfigError(
                "contrastive_reduction is mean, but the sigmoid loss has no two directions; "
                "leave it at sum"
            )


class Losses(NamedTuple):
    """What an objective gives for one batch, or one part of it.

    A tuple, so that whatever is wrapped around a model finds the tensors in it.
    """

    total: Float[Tensor, ""]
    """What is minimised; carries the graph."""
    parts: dict[str, Float[Tensor, ""]]
    """Single figures by name, unweighted and without graph."""


class Embedded(NamedTuple):
    """All that the contrastive loss reads of a model."""

    images: Float[Tensor, "B E"]
    texts: Float[Tensor, "B E"]
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None


class Totals(NamedTuple):
    """What a part of a step needs to know of the whole: weights that make parts add up."""

    token_weight: Float[Tensor, ""]
    """Of each word: ranks over the words of all ranks."""
    image_weight: Float[Tensor, ""]
    """Of each labelled image: ranks over the labelled images of all ranks."""


ModelT_contra = TypeVar("ModelT_contra", bound=nn.Module, contravariant=True)


@runtime_checkable
class Objective(Protocol[ModelT_contra]):
    """What a step minimises, for one kind of model."""

    def __call__(self, model: ModelT_contra, batch: Batch) -> Losses:
        """The losses of one batch; runs the model once."""
        ...

    def constrain_(self, model: ModelT_contra) -> None:
        """Put parameters that left their range back into it; called after each update."""
        ...


@runtime_checkable
class ChunkedLoss(Objective[ModelT_contra], Protocol[ModelT_contra]):
    """An objective that can go through a batch in parts, although some loss ties pairs together.

    That loss sees only embeddings. So they are computed first, part by part and without graph; the
    gradient of the loss by them then stands for the loss when each part is run again.
    """

    def totals(self, model: ModelT_contra, batch: Batch) -> Totals:
        """What parts of the whole batch need to know; all ranks must call it."""
        ...

    def embed(self, model: ModelT_contra, batch: Batch) -> Embedded | None:
        """Embeddings of a part; None if no loss ties pairs together."""
        ...

    def match(self, embedded: Embedded) -> Losses:
        """The weighted loss that ties all pairs together; all ranks must call it."""
        ...

    def run_part(
        self, model: ModelT_contra, batch: Batch, totals: Totals, pull: Embedded | None
    ) -> Losses:
        """The losses of a part by themselves; with them flows the gradient of `match`.

        Args:
            model: Run once.
            batch: The part.
            totals: Of the whole batch.
            pull: Gradient of `match` by what `embed` gave for this part.
        """
        ...


class CoCaObjective:
    """The losses of a Contrastive Captioner from one forward pass.

    Parts: `contrastive`, `captioning` and `classification` as far as they have a weight; with the
    first also `temperature` and `image_to_text@1`, the share of images whose own caption is the
    nearest of the batch (chance: one over the batch).
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, model: Captioner, batch: Batch) -> Losses:
        """The weighted sum and its parts.

        Raises:
            ConfigError: Classes have a weight, but the model has no head or the batch no classes;
                or the model has a bias and the loss is not the sigmoid one, or the other way round.
        """
        self._require_fit(model, batch)
        output = self._run(model, batch)
        losses = self._sum_up(model, batch, output, self.totals(model, batch))
        embedded = _embedded(model, output)
        return losses if embedded is None else add_losses(self.match(embedded), losses)

    def constrain_(self, model: Captioner) -> None:
        """Keep the learned temperature within its range."""
        model.clamp_temperature_()

    def totals(self, model: Captioner, batch: Batch) -> Totals:
        """Counts words and labelled images over all ranks."""
        counts = torch.zeros(2, device=batch.tokens.device)
        if self.config.captioning_weight > 0:
            counts[0] = model.label_mask(batch.tokens).sum()
        if self.config.classification_weight > 0 and batch.class_targets is not None:
            counts[1] = _labelled(batch.class_targets).sum()
        # A batch that goes through the model in parts is still on the host.
        counts = counts.to(model.log_scale.device)
        return Totals(*(world_size() / all_reduce_sum(counts).clamp(min=1)).unbind())

    def embed(self, model: Captioner, batch: Batch) -> Embedded | None:
        """Runs the image encoder, its poolers and the unimodal decoder."""
        self._require_fit(model, batch)
        if self.config.contrastive_weight == 0:
            return None
        return _embedded(model, model(batch.images, batch.tokens, captioning=False))

    def match(self, embedded: Embedded) -> Losses:
        """The contrastive loss of the pairs of all ranks, and its figures."""
        contrast = self._contrast(embedded)
        parts = {
            "contrastive": contrast.loss.detach(),
            "temperature": 1 / embedded.scale.detach(),
            "image_to_text@1": contrast.image_to_text,
        }
        return Losses(self.config.contrastive_weight * contrast.loss, parts)

    def run_part(
        self, model: Captioner, batch: Batch, totals: Totals, pull: Embedded | None
    ) -> Losses:
        """Captioning and classification of a part."""
        self._require_fit(model, batch)
        output = self._run(model, batch)
        losses = self._sum_up(model, batch, output, totals)
        embedded = _embedded(model, output)
        if pull is None or embedded is None:
            return losses
        return losses._replace(total=losses.total + _pulled(embedded, pull))

    def _run(self, model: Captioner, batch: Batch) -> CoCaOutput:
        config = self.config
        return model(
            batch.images,
            batch.tokens,
            contrastive=config.contrastive_weight > 0,
            captioning=config.captioning_weight > 0,
            classification=config.classification_weight > 0,
            prompt_lengths=batch.prompt_lengths,
        )

    def _contrast(self, embedded: Embedded) -> Contrast:
        config = self.config
        images, texts, scale, bias = embedded
        if bias is not None:
            return sigmoid_loss(images, texts, scale, bias, block_rows=config.contrastive_rows)
        return contrastive_loss(
            images,
            texts,
            scale,
            reduction=config.contrastive_reduction,
            block_rows=config.contrastive_rows,
        )

    def _sum_up(self, model: Captioner, batch: Batch, output: CoCaOutput, totals: Totals) -> Losses:
        """The losses that look at one pair at a time."""
        config = self.config
        total = batch.images.new_zeros(())
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
    """The sum of both; a figure that only one of them has stays as it is."""
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


def _pulled(embedded: Embedded, pull: Embedded) -> Float[Tensor, ""]:
    """A sum whose gradient is that of the loss which `pull` is the gradient of; its value is 0."""
    products = [
        (tensor.float() * gradient).sum()
        for tensor, gradient in zip(embedded, pull, strict=True)
        if tensor is not None and gradient is not None
    ]
    total = torch.stack(products).sum()
    return total - total.detach()


def _labelled(targets: Float[Tensor, "B C"]) -> Bool[Tensor, " B"]:
    return targets.sum(dim=1) > 0
