"""What a training step minimises: the weighted sum of CoCa's losses (section 3.2), in nats."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.data.sample import Batch
from coca.model.coca import CoCa
from coca.model.losses import captioning_loss, classification_loss, contrastive_loss

ACCURACY_ROWS = 256
"""Pictures that the in-batch accuracy looks at: enough for a curve, cheap in any batch."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses; a loss of weight 0 costs nothing, its tower is not run."""

    contrastive_weight: float = 1.0
    """Weight of matching pictures and captions; 1 in the paper."""
    captioning_weight: float = 2.0
    """Weight of predicting each next word; 2 in the paper."""
    classification_weight: float = 0.0
    """Weight of naming classes by a head of their own; the paper has no such loss."""
    contrastive_reduction: Literal["sum", "mean"] = "sum"
    """`sum` adds both directions, as the paper; `mean` averages them, as OpenCLIP."""
    label_smoothing: float = 0.0
    """Share of each target, word or class, that is spread over all others; 0 to below 1."""
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
        if self.caption_chunk < 1:
            raise ConfigError(f"caption_chunk must be at least 1 word (got {self.caption_chunk})")


@dataclass(frozen=True)
class Losses:
    """What an objective gives for one batch."""

    total: Float[Tensor, ""]
    """What is minimised; carries the graph."""
    parts: dict[str, Float[Tensor, ""]]
    """Single figures by name, unweighted and without graph."""


ModelT_contra = TypeVar("ModelT_contra", bound=nn.Module, contravariant=True)


@runtime_checkable
class Objective(Protocol[ModelT_contra]):
    """What a step minimises, for one kind of model."""

    def __call__(self, model: ModelT_contra, batch: Batch) -> Losses:
        """The loss of one batch; runs the model once."""
        ...

    def constrain_(self, model: ModelT_contra) -> None:
        """Put parameters that left their range back into it; called after each update."""
        ...


class CoCaObjective:
    """The losses of a Contrastive Captioner from one forward pass.

    Parts: `contrastive`, `captioning` and `classification` as far as they have a weight; with the
    first also `temperature` and `image_to_text@1`, the share of pictures whose own caption is the
    nearest of the batch (chance: one over the batch).
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, model: CoCa, batch: Batch) -> Losses:
        """The weighted sum and its parts.

        Raises:
            ConfigError: Classes have a weight, but the model has no head or the batch no classes.
        """
        config = self.config
        if config.classification_weight > 0:
            self._require_classes(model, batch)
        output = model(
            batch.images,
            batch.tokens,
            contrastive=config.contrastive_weight > 0,
            captioning=config.captioning_weight > 0,
            classification=config.classification_weight > 0,
        )
        weighted, parts = [], {}
        if output.image_embedding is not None and output.text_embedding is not None:
            loss = contrastive_loss(
                output.image_embedding,
                output.text_embedding,
                model.logit_scale,
                reduction=config.contrastive_reduction,
            )
            weighted.append(config.contrastive_weight * loss)
            parts["contrastive"] = loss.detach()
            parts["temperature"] = 1 / model.logit_scale.detach()
            parts["image_to_text@1"] = _first_is_own(
                output.image_embedding.detach(), output.text_embedding.detach()
            )
        if output.caption_states is not None and output.caption_targets is not None:
            loss = captioning_loss(
                output.caption_states,
                output.caption_targets,
                model.vocabulary_weight,
                chunk_size=config.caption_chunk,
                label_smoothing=config.label_smoothing,
            )
            weighted.append(config.captioning_weight * loss)
            parts["captioning"] = loss.detach()
        if output.class_logits is not None and batch.class_targets is not None:
            loss = self._classification(output.class_logits, batch.class_targets)
            weighted.append(config.classification_weight * loss)
            parts["classification"] = loss.detach()
        return Losses(total=torch.stack(weighted).sum(), parts=parts)

    def constrain_(self, model: CoCa) -> None:
        """Keep the learned temperature within its range."""
        model.clamp_temperature_()

    def _classification(
        self, logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]
    ) -> Float[Tensor, ""]:
        """The loss over pictures that have a label; 0 if the batch has none."""
        labelled = targets.sum(dim=1) > 0
        if not bool(labelled.any()):
            return 0.0 * logits.float().sum()
        return classification_loss(
            logits[labelled], targets[labelled], label_smoothing=self.config.label_smoothing
        )

    def _require_classes(self, model: CoCa, batch: Batch) -> None:
        weight = self.config.classification_weight
        if model.classification_head is None:
            raise ConfigError(
                f"classification_weight is {weight}, but the model has no classification head; "
                "set num_classes of the model or the weight to 0"
            )
        if batch.class_targets is None:
            raise ConfigError(
                f"classification_weight is {weight}, but the data carry no classes; "
                "set the weight to 0"
            )


def _first_is_own(
    image_embedding: Float[Tensor, "B E"], text_embedding: Float[Tensor, "B E"]
) -> Float[Tensor, ""]:
    rows = image_embedding[:ACCURACY_ROWS]
    nearest = (rows @ text_embedding.T).argmax(dim=1)
    return (nearest == torch.arange(len(rows), device=rows.device)).float().mean()
