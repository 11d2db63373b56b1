"""Distillation of the image encoder's own classifier into the shared embedding space.

The teacher is the softmax of the classifier, over a sample of its classes. The student is the
softmax over the cosines of an image with the text embeddings of these class names in prompts. The
loss is the KL divergence between both, so no image needs a label.

Dimensions: B images, C classes of the classifier, K sampled classes, N prompts of all classes,
T tokens, E embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.model.captioner import Captioner
from coca.model.losses.collectives import all_reduce_sum


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(Config):
    """Settings of the distillation loss; see `LossConfig.distillation_weight`."""

    classes: Annotated[int, Field(ge=2)] = 256
    """Classes of the classifier in each step, at least 2. The most likely class of each image is
    among them if there is room; the others are drawn at random. Fewer cost less."""
    temperature: PositiveFloat = 1.0
    """Temperature of the classifier's softmax, above 0; higher values give softer targets."""
    templates: tuple[str, ...] = (
        "a photo of a {}",
        "a {}",
        "a photo of the {}",
        "an image of a {}",
    )
    """Prompt templates with `{}` for the class name. Each step draws one of them, and one of the
    names of a class with several."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.templates or not all("{}" in it for it in self.templates):
            raise ConfigError(
                f"distillation.templates must each contain {{}}, got {list(self.templates)}"
            )


class ClassPrompts:
    """Tokenized prompts of all classes; several for each class.

    Attributes:
        tokens: All prompts, those of a class in a row.
        counts: Number of prompts of each class.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        templates: Sequence[str],
        encode: Callable[[Sequence[str]], Int[Tensor, "N T"]],
    ) -> None:
        """Tokenize the prompts of all classes.

        Args:
            class_names: Names in the order of the logits; a class may have several, joined by ", ".
            templates: Prompt templates.
            encode: Tokenizer, such as `Processor.texts`.
        """
        names = [name.split(", ") for name in class_names]
        texts = [
            template.replace("{}", name) for own in names for name in own for template in templates
        ]
        self.tokens = encode(texts)
        self.counts = torch.tensor([len(own) * len(templates) for own in names])
        self._first = self.counts.cumsum(0) - self.counts

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.counts)

    def draw(self, classes: Int[Tensor, " K"]) -> Int[Tensor, "K T"]:
        """Draw one prompt of each class, on the classes' device; all ranks draw the same."""
        counts, first = self.counts[classes.cpu()], self._first[classes.cpu()]
        drawn = (shared_uniform(len(counts), classes.device).cpu() * counts).long()
        return self.tokens[first + drawn.minimum(counts - 1)].to(classes.device)


class DrawnClasses(NamedTuple):
    """Classes of one step, the same for all its micro-batches and ranks, and their prompts."""

    classes: Int[Tensor, " K"]
    tokens: Int[Tensor, "K T"]


def draw_classes(
    teacher: Float[Tensor, "B C"], prompts: ClassPrompts, config: DistillationConfig
) -> DrawnClasses:
    """Draw the classes of a step and one prompt of each; all ranks must call it."""
    classes = sample_classes(teacher, config.classes)
    return DrawnClasses(classes, prompts.draw(classes))


def sample_classes(teacher: Float[Tensor, "B C"], count: int) -> Int[Tensor, " K"]:
    """Sample classes: the likeliest of each image of any rank, then any others.

    The result is sorted, and the same on all ranks. With more images than `count`, a random part of
    their classes is kept.
    """
    votes = torch.zeros(teacher.shape[1], device=teacher.device)
    votes[teacher.argmax(dim=1)] = 1
    priority = shared_uniform(len(votes), teacher.device) + (all_reduce_sum(votes) > 0)
    return priority.topk(min(count, len(priority))).indices.sort().values


def shared_uniform(count: int, device: torch.device) -> Float[Tensor, " count"]:
    """Draw numbers in [0, 1) with torch's global generators; equal on all ranks."""
    # A sum of uniform numbers, modulo 1, is uniform again.
    return all_reduce_sum(torch.rand(count).to(device)) % 1


def distillation_loss(
    model: Captioner,
    images: Float[Tensor, "B E"],
    teacher: Float[Tensor, "B C"],
    drawn: DrawnClasses,
    *,
    temperature: float,
    image_weight: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Compute the KL divergence of teacher and student in nats, as a weighted sum over images."""
    teacher = teacher.detach().float()
    texts = model.encode_text(drawn.tokens)
    # In fp32: half precision would round cosines, which the scale then multiplies.
    with torch.autocast(images.device.type, enabled=False):
        logits = model.logit_scale.float() * images.float() @ texts.float().T
        student = F.log_softmax(logits, dim=1)
        target = F.log_softmax(teacher[:, drawn.classes] / temperature, dim=1)
        return F.kl_div(student, target, reduction="sum", log_target=True) * image_weight
