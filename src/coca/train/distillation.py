"""Distillation into the shared embedding space: of a classifier, and of a sentence encoder.

The first teacher is the image encoder's own classifier: its softmax over a sample of its classes.
The student is the softmax over the cosines of an image with the text embeddings of these class
names in prompts. The loss is the KL divergence between both, so no image needs a label.

The second teacher is a sentence encoder, by text without images. A few thousand captioned photos
teach which words are seen, but not which sentences mean the same. It has a vector of each of many
sentences, computed before the run. Each step draws some of them. The loss is the KL divergence
between two distributions over the other sentences of the step: the softmax of the cosines of the
teacher's vectors, and that of the cosines of the text embeddings. So only relations of sentences
are learned (Park et al. 2019, arXiv 1904.05068), and vectors of both may have different sizes. A
sentence in another language may have the vector of its translation (Reimers and Gurevych 2020,
arXiv 2004.09813).

Dimensions: B images, C classes of the classifier, K sampled classes or drawn sentences, N prompts
of all classes or sentences, T tokens, E embedding, G numbers of the sentence encoder's vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from coca.processing.word_vectors import WordVectors

# The image encoder's classifier as a teacher.


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
        """Tokenize the prompts of all classes."""
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


# A sentence encoder as a teacher.


@dataclass(frozen=True, kw_only=True)
class SentenceConfig(Config):
    """Settings of the sentence loss; see `LossConfig.sentence_weight`."""

    path: Path | None = None
    """File of sentences with the vectors of a teacher, as `recipes/data/sentences.py` writes it."""
    count: Annotated[int, Field(ge=3)] = 128
    """Sentences that a step draws, at least 3. The cost is that of as many captions."""
    temperature: PositiveFloat = 0.05
    """Temperature of both distributions; a lower one compares the nearest sentences only."""


class DrawnSentences(NamedTuple):
    """Sentences of one step, the same for all its micro-batches and ranks."""

    tokens: Int[Tensor, "K T"]
    vectors: Float[Tensor, "K G"]
    """Unit vectors of the teacher."""


class SentenceTeacher:
    """Tokenized sentences and the teacher's vector of each."""

    def __init__(
        self, table: WordVectors, encode: Callable[[Sequence[str]], Int[Tensor, "N T"]]
    ) -> None:
        """Tokenize the sentences."""
        self._tokens = encode(table.words)
        # In half precision: 235,000 sentences with 384 numbers take 180 MB.
        self._vectors = F.normalize(torch.from_numpy(table.vectors), dim=1).half()

    @classmethod
    def load(
        cls, config: SentenceConfig, encode: Callable[[Sequence[str]], Int[Tensor, "N T"]]
    ) -> "SentenceTeacher":
        """Load the file of a configuration."""
        if config.path is None:
            raise ConfigError(
                "loss.sentence_weight needs sentences with vectors of a teacher: set "
                "loss.sentences.path, or the weight to 0"
            )
        table = WordVectors.load(config.path)
        if len(table.words) < config.count:
            raise ConfigError(
                f"{config.path} has {len(table.words)} sentences, but loss.sentences.count is "
                f"{config.count}"
            )
        return cls(table, encode)

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self._tokens)

    def draw(self, count: int, device: torch.device) -> DrawnSentences:
        """Draw different sentences with torch's global generators; all ranks draw the same."""
        rows = shared_uniform(len(self), device).topk(count).indices.cpu()
        tokens, vectors = self._tokens[rows], self._vectors[rows].float()
        return DrawnSentences(tokens.to(device), vectors.to(device))


def sentence_loss(
    model: Captioner, drawn: DrawnSentences, *, temperature: float
) -> Float[Tensor, ""]:
    """Compute the KL divergence of teacher and model in nats, as the mean over sentences."""
    texts = model.encode_text(drawn.tokens)
    # In fp32: half precision would round cosines, which the temperature then divides.
    with torch.autocast(texts.device.type, enabled=False):
        student, target = (
            F.log_softmax(_others(vectors.float()) / temperature, dim=1)
            for vectors in (texts, drawn.vectors)
        )
        return F.kl_div(student, target, reduction="batchmean", log_target=True)


def _others(vectors: Float[Tensor, "K D"]) -> Float[Tensor, "K L"]:
    """Compute the cosines of each vector with all others; a row leaves out its own."""
    count = len(vectors)
    cosines = vectors @ vectors.T
    # Without the first element, the diagonal is the last column of rows that are one longer.
    return cosines.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
