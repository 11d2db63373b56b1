"""Training objectives: what a step minimizes, and the metrics it reports.

On several ranks, the mean over ranks of the losses, and of their gradients, equals the result of
one process on all pairs. So all tokens and all labelled images have equal weight, on any rank and
in any micro-batch.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.coca import CoCa, CoCaOutput
from coca.model.heads import head_for, head_of, logits_of
from coca.model.layers.packing import to_device
from coca.model.losses.captioning_loss import captioning_loss, classification_loss
from coca.model.losses.collectives import all_reduce_sum, world_size
from coca.model.losses.contrastive_loss import clamp_temperature_
from coca.train.losses import (
    CONTRASTIVE_LOSSES,
    AuxiliaryLoss,
    Embedded,
    LossConfig,
    Losses,
    add_losses,
)

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


class Totals(NamedTuple):
    """Numbers of the whole batch, so that the losses of micro-batches add up."""

    token_weight: Float[Tensor, ""]
    """Weight of each token: number of ranks / number of tokens of all ranks."""
    image_weight: Float[Tensor, ""]
    """Weight of each labelled image: number of ranks / labelled images of all ranks."""
    pairs: int
    """Pairs of the whole batch, of which a micro-batch has a part."""


class CoCaObjective:
    """The losses of a CoCa of either architecture from one forward pass.

    Parts: `contrastive`, `captioning` and `classification`, if their weight is above 0, and the
    auxiliary losses by their kind. With the first also `temperature` and `image_to_text@1`, the
    fraction of images whose own caption is the nearest of the batch (chance level: 1 / batch size).
    """

    def __init__(self, config: LossConfig, auxiliary: Sequence[AuxiliaryLoss] = ()) -> None:
        """Create the objective, with the losses of `config.auxiliary` in their order."""
        self.config, self.auxiliary = config, auxiliary

    def __call__(self, model: CoCa, batch: Batch) -> Losses:
        """Compute the weighted sum of the losses and its parts."""
        return self.of_output(model, batch, self._run(model, batch))

    def constrain_(self, model: CoCa) -> None:
        """Clamp the learned temperature to its range."""
        clamp_temperature_(model.log_scale)

    def of_output(self, model: CoCa, batch: Batch, output: CoCaOutput) -> Losses:
        """Compute the losses of this rank's batch from its output; all ranks must call it."""
        losses = self._sum_up(model, batch, output, self.totals(model, batch))
        embedded = _embedded(model, output) if self.config.contrastive_weight else None
        return losses if embedded is None else add_losses(self.match(embedded), losses)

    def totals(self, model: CoCa, batch: Batch) -> Totals:
        """Count tokens and labelled images over all ranks, as weights."""
        counts = torch.zeros(2, device=batch.tokens.device)
        captioned = batch.is_captioned
        if self.config.captioning_weight > 0:
            labels = model.label_mask(batch.tokens)
            counts[0] = (labels if captioned is None else labels & captioned[:, None]).sum()
        if self.config.classification_weight > 0 and batch.class_targets is not None:
            counts[1] = (batch.class_targets.sum(dim=1) > 0).sum()
        counts = to_device(counts, model.log_scale.device)
        token, image = (world_size() / all_reduce_sum(counts).clamp(min=1)).unbind()
        return Totals(token, image, len(batch.keys))

    def first_pass(self, model: CoCa, batch: Batch) -> Embedded | None:
        """Run the image encoder, the poolers and the unimodal decoder."""
        self._require_fit(model, batch)
        if not self.config.contrastive_weight:
            return None
        images, texts = model.encode_image(batch.images), model.encode_text(batch.tokens)
        return Embedded(images, texts, model.logit_scale, model.logit_bias)

    def match(self, embedded: Embedded) -> Losses:
        """Compute the contrastive loss of the pairs of all ranks, and its metrics."""
        contrast = CONTRASTIVE_LOSSES.get(self.config.contrastive)(embedded, self.config)
        parts = {
            "contrastive": contrast.loss.detach(),
            "temperature": 1 / embedded.scale.detach(),
            "image_to_text@1": contrast.image_to_text,
        }
        return Losses(self.config.contrastive_weight * contrast.loss, parts)

    def run_part(self, model: CoCa, batch: Batch, totals: Totals) -> tuple[Losses, Embedded | None]:
        """Compute all losses of a micro-batch but the contrastive one, and the inputs of that."""
        output = self._run(model, batch)
        return self._sum_up(model, batch, output, totals), _embedded(model, output)

    def _run(self, model: CoCa, batch: Batch) -> CoCaOutput:
        """Run the model, or only those parts of it that a loss needs."""
        self._require_fit(model, batch)
        images, tokens = batch.images, batch.tokens
        embeds = self.config.contrastive_weight > 0 or bool(self.auxiliary)
        decodes = self.config.captioning_weight > 0
        if self.config.classification_weight > 0:
            head = head_for(model, images, with_captions=embeds or decodes)
            decodes |= head.config.reads == "text"
            if images.ndim == 5:  # Several images of a sample, each with its tokens.
                tokens = tokens.repeat_interleave(images.shape[1], dim=0)
                images = images.flatten(0, 1)
        if embeds and decodes:
            return model(images, tokens)
        encoded = model.encode(images)
        return CoCaOutput(
            encoded.tokens,
            model.pool_embedding(encoded) if embeds else None,
            model.encode_text(tokens) if embeds else None,
            model.decode(tokens, model.pool_tokens(encoded)) if decodes else None,
        )

    def _sum_up(self, model: CoCa, batch: Batch, output: CoCaOutput, totals: Totals) -> Losses:
        """Compute the per-sample losses."""
        config = self.config
        total = model.log_scale.new_zeros(())
        parts = {}
        if config.captioning_weight > 0 and output.decoded is not None:
            states, targets = output.decoded.labelled(batch.is_captioned)
            loss = captioning_loss(
                states,
                targets,
                model.vocabulary_weight,
                chunk_size=config.caption_chunk,
                label_smoothing=config.label_smoothing,
                token_weight=totals.token_weight,
            )
            total = total + config.captioning_weight * loss
            parts["captioning"] = loss.detach()
        labels = batch.class_targets
        if config.classification_weight > 0 and labels is not None:
            logits = logits_of(head_of(model), output, batch.prompt_lengths)
            rows = (labels.sum(dim=1) > 0).nonzero()[:, 0]
            loss = classification_loss(
                logits[to_device(rows, logits.device)],
                labels[rows],
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

    def _require_fit(self, model: CoCa, batch: Batch) -> None:
        """Raise a `ConfigError` if the model's bias or the data do not fit the losses."""
        loss = self.config.contrastive if self.config.contrastive_weight > 0 else None
        if loss == "sigmoid" and model.logit_bias is None:
            raise ConfigError(
                "contrastive is sigmoid, which needs a model with a bias; set its initial_bias, "
                "for instance to -10, or contrastive to softmax"
            )
        if loss == "softmax" and model.logit_bias is not None:
            raise ConfigError(
                "contrastive is softmax, which no bias can change, but the model has one; set its "
                "initial_bias to null or contrastive to sigmoid"
            )
        if self.config.classification_weight > 0 and batch.class_targets is None:
            raise ConfigError(
                "classification_weight is above 0, but the data carry no classes; set it to 0"
            )


def _embedded(model: CoCa, output: CoCaOutput) -> Embedded | None:
    if output.image_embedding is None or output.text_embedding is None:
        return None
    return Embedded(
        output.image_embedding, output.text_embedding, model.logit_scale, model.logit_bias
    )
