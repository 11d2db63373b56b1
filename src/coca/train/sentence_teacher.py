"""Distillation of a sentence encoder into the unimodal text decoder, by text without images.

A few thousand captioned photos teach which words are seen, but not which sentences mean the same.
The teacher has a vector of each of many sentences, computed before the run. Each step draws some of
them. The loss is the KL divergence between two distributions over the other sentences of the step:
the softmax of the cosines of the teacher's vectors, and that of the cosines of the text embeddings.
So only relations of sentences are learned (Park et al. 2019, arXiv 1904.05068), and vectors of both
may have different sizes. A sentence in another language may have the vector of its translation
(Reimers and Gurevych 2020, arXiv 2004.09813).

Dimensions: N sentences, T tokens, K drawn sentences, G numbers of the teacher's vectors, E
embedding.
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
from coca.processing.word_vectors import WordVectors
from coca.train.distillation import shared_uniform


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
