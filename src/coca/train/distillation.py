"""Distillation of the image encoder's own classifier into the shared embedding space.

The teacher is the softmax of the classifier, over a sample of its classes. The student is the
softmax over the cosines of an image with the text embeddings of these class names in prompts. The
loss is the KL divergence between both, so no image needs a label.

Dimensions: B images, C classes of the classifier, K sampled classes, N prompts of all classes,
T tokens, E embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from coca.core.config.base import Config
from coca.core.errors import ConfigError
from coca.model.captioner import Captioner


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
    """Tokenized prompts of all classes; several for each class."""

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
        self._tokens = encode(texts)
        self._counts = torch.tensor([len(own) * len(templates) for own in names])
        self._first = self._counts.cumsum(0) - self._counts

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self._counts)

    def draw(self, classes: Int[Tensor, " K"]) -> Int[Tensor, "K T"]:
        """Draw one prompt of each class with torch's global generator, on the classes' device."""
        counts, first = self._counts[classes.cpu()], self._first[classes.cpu()]
        drawn = (torch.rand(len(counts)) * counts).long()
        return self._tokens[first + drawn.minimum(counts - 1)].to(classes.device)


def sample_classes(teacher: Float[Tensor, "B C"], count: int) -> Int[Tensor, " K"]:
    """Sample classes with torch's global generator: the likeliest of each image, then any others.

    The result is sorted. With more images than `count`, a random part of their classes is kept.
    """
    priority = torch.rand(teacher.shape[1])
    priority[teacher.argmax(dim=1).cpu()] += 1
    kept = priority.topk(min(count, len(priority))).indices
    return kept.sort().values.to(teacher.device)


def distillation_loss(
    model: Captioner,
    images: Float[Tensor, "B E"],
    teacher: Float[Tensor, "B C"],
    prompts: ClassPrompts,
    config: DistillationConfig,
    *,
    image_weight: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Compute the KL divergence of teacher and student in nats, as a weighted sum over images.

    Args:
        model: Embeds the prompts, and has the logit scale.
        images: Unit vectors of the images.
        teacher: Logits of the classifier; no gradient flows to them.
        prompts: Prompts of its classes.
        config: Number of classes and temperature.
        image_weight: Weight of each image.
    """
    teacher = teacher.detach().float()
    classes = sample_classes(teacher, config.classes)
    texts = model.encode_text(prompts.draw(classes))
    # In fp32: half precision would round cosines, which the scale then multiplies.
    with torch.autocast(images.device.type, enabled=False):
        logits = model.logit_scale.float() * images.float() @ texts.float().T
        student = F.log_softmax(logits, dim=1)
        target = F.log_softmax(teacher[:, classes] / config.temperature, dim=1)
        return F.kl_div(student, target, reduction="sum", log_target=True) * image_weight
