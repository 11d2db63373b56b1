"""Losses of the model `everyday`: two teachers, and word vectors for words of no caption.

    coca pretrain recipe:everyday --plugin recipes/pretrain/everyday_losses.py

`distillation`: the image encoder's own classifier is the teacher. Its softmax over a sample of its
classes is compared with the softmax over the cosines of an image with the text embeddings of these
class names in prompts. No image needs a label.

`sentences`: a sentence encoder is the teacher, by text without images. A few thousand captioned
photos teach which words are seen, but not which sentences mean the same. The softmax over the
cosines of its vectors of some sentences is compared with that of their text embeddings. So only
relations of sentences are learned (Park et al. 2019, arXiv 1904.05068), and vectors of both may
have different sizes. A sentence in another language may have the vector of its translation
(Reimers and Gurevych 2020, arXiv 2004.09813). With `word_vectors`, each row of the token embedding
is a free row plus a map of the token's word vector, and all tokens share the map. Only tokens of
captions train their free row, so the row of any other word stays close to those of similar words.

Both losses are the KL divergence in nats, as the mean over images or sentences.

Dimensions: B images, C classes of the classifier, K sampled classes or sentences, N prompts or
sentences, T tokens, E embedding, G numbers of a teacher's vector, V tokens of the vocabulary, D
width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import Field, PositiveFloat
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from coca.core.errors import ConfigError, ModelError
from coca.data.batch import Batch
from coca.model.captioner import Captioner, CoCaOutput
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from coca.train.losses import AUXILIARY_LOSSES, AuxiliaryConfig, AuxiliaryLoss
from coca.workflows.training.init_weights import class_texts, start_class_branch_


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(AuxiliaryConfig):
    """Settings of the loss `distillation`."""

    kind: str = "distillation"
    classes: Annotated[int, Field(ge=2)] = 256
    """Classes of the classifier in each step, at least 2. The most likely class of each image is
    among them if there is room; the others are drawn at random. Fewer cost less."""
    temperature: PositiveFloat = 1.0
    """Temperature of the classifier's softmax, above 0; higher values give softer targets."""
    sources: tuple[str, ...] = ()
    """Names of the sources whose images are distilled: a classifier of photos does not teach
    drawings. Default: all."""


@AUXILIARY_LOSSES.register("distillation")
class Distillation(AuxiliaryLoss):
    """Distill the image encoder's classifier into the shared embedding space."""

    config_class = DistillationConfig

    def __init__(self, config: DistillationConfig, model: Captioner, processor: Processor) -> None:
        """Tokenize the prompts of all classes."""
        names = model.image_encoder.class_names
        if names is None:
            raise ConfigError(
                "loss.auxiliary has a distillation, but the image encoder has no classifier with "
                "class names; choose an encoder with model.image.classes 1000"
            )
        texts = [class_texts(name) for name in names]
        self.config = config
        self._tokens = processor.texts([text for own in texts for text in own])
        self._counts = torch.tensor([len(own) for own in texts])
        self._first = self._counts.cumsum(0) - self._counts

    def __call__(self, model: Captioner, batch: Batch, output: CoCaOutput) -> Float[Tensor, ""]:
        """Compute the KL divergence of classifier and model."""
        images, teacher = output.image_embedding, self._teacher(model, batch)
        assert images is not None, "auxiliary losses have the embeddings"
        if wanted := self.config.sources:
            kept = torch.tensor([it in wanted for it in batch.sources], device=images.device)
            images, teacher = images[kept], teacher[kept]
        if len(images) == 0:
            return images.sum()
        classes = sample_classes(teacher, self.config.classes)
        texts = model.encode_text(self._draw(classes))
        # In fp32: half precision would round cosines, which the scale then multiplies.
        with torch.autocast(images.device.type, enabled=False):
            logits = model.logit_scale.float() * images.float() @ texts.float().T
            return divergence(logits, teacher.float()[:, classes] / self.config.temperature)

    @torch.no_grad()
    def _teacher(self, model: Captioner, batch: Batch) -> Float[Tensor, "B C"]:
        """Compute the logits of the classifier, from cached features if the batch has them."""
        images, encoder = batch.images, model.image_encoder
        features = encoder.features(images) if images.ndim > 3 else images
        return encoder.classify(features.to(model.log_scale.dtype))

    def _draw(self, classes: Int[Tensor, " K"]) -> Int[Tensor, "K T"]:
        """Draw one prompt of each class."""
        counts, first = self._counts[classes.cpu()], self._first[classes.cpu()]
        drawn = (torch.rand(len(counts)) * counts).long()
        return self._tokens[first + drawn.minimum(counts - 1)].to(classes.device)


def sample_classes(teacher: Float[Tensor, "B C"], count: int) -> Int[Tensor, " K"]:
    """Sample classes, sorted: the likeliest of each image, then any others.

    With more images than `count`, a random part of their classes is kept.
    """
    priority = torch.rand(teacher.shape[1]).to(teacher.device)
    priority[teacher.argmax(dim=1).unique()] += 1
    return priority.topk(min(count, len(priority))).indices.sort().values


@dataclass(frozen=True, kw_only=True)
class SentencesConfig(AuxiliaryConfig):
    """Settings of the loss `sentences`."""

    kind: str = "sentences"
    path: Path
    """File of sentences with the vectors of a teacher, as `recipes/data/sentences.py` writes it."""
    count: Annotated[int, Field(ge=3)] = 128
    """Sentences that a step draws, at least 3. The cost is that of as many captions."""
    temperature: PositiveFloat = 0.05
    """Temperature of both distributions; a lower one compares the nearest sentences only."""
    word_vectors: Path | None = None
    """Word vectors that token embeddings are mapped from, as `recipes/data/word_vectors.py` writes
    them, for a run from scratch. null: a free row for each token."""


@AUXILIARY_LOSSES.register("sentences")
class Sentences(AuxiliaryLoss):
    """Distill the relations of sentences."""

    config_class = SentencesConfig

    def __init__(self, config: SentencesConfig, model: Captioner, processor: Processor) -> None:
        """Tokenize the sentences, and map the token embedding from word vectors."""
        self.config = config
        sentences, vectors = read_vectors(config.path)
        if len(sentences) < config.count:
            raise ConfigError(
                f"{config.path} has {len(sentences)} sentences, but count of the auxiliary loss is "
                f"{config.count}"
            )
        self._tokens = processor.texts(sentences)
        # In half precision: 235,000 sentences with 384 numbers take 180 MB.
        self._vectors = F.normalize(torch.from_numpy(vectors), dim=1).half()
        if config.word_vectors is not None:
            _map_token_embedding_(model, processor, config.word_vectors)

    def __call__(self, model: Captioner, batch: Batch, output: CoCaOutput) -> Float[Tensor, ""]:
        """Compute the KL divergence of teacher and model over drawn sentences."""
        device = model.log_scale.device
        rows = torch.rand(len(self._tokens)).topk(self.config.count).indices
        texts = model.encode_text(self._tokens[rows].to(device))
        # In fp32: half precision would round cosines, which the temperature then divides.
        with torch.autocast(device.type, enabled=False):
            student, target = (
                _others(vectors.float()) / self.config.temperature
                for vectors in (texts, self._vectors[rows].to(device))
            )
            return divergence(student, target)


def divergence(student: Float[Tensor, "N K"], teacher: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Compute the KL divergence of the softmax of two tables of logits, as the mean over rows."""
    one, other = F.log_softmax(student, dim=1), F.log_softmax(teacher.detach(), dim=1)
    return F.kl_div(one, other, reduction="batchmean", log_target=True)


def _others(vectors: Float[Tensor, "K D"]) -> Float[Tensor, "K L"]:
    """Compute the cosines of each vector with all others; a row leaves out its own."""
    count = len(vectors)
    cosines = vectors @ vectors.T
    # Without the first element, the diagonal is the last column of rows that are one longer.
    return cosines.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


class WordMap(nn.Module):
    """Adds a map of word vectors to the free rows of an embedding.

    Its parts have the names of those of `coca.model.lora.LowRank`, as which it is merged.
    """

    up: Float[Tensor, "V G"]
    is_free: Float[Tensor, "V 1"]
    scale: Float[Tensor, ""]

    def __init__(
        self, vectors: Float[Tensor, "V G"], is_free: Float[Tensor, "V 1"], width: int
    ) -> None:
        super().__init__()
        # All ranks begin with the same map. Vectors of unit length give rows of the same size as a
        # random initialization.
        mapping = torch.randn(vectors.shape[1], width, generator=torch.Generator().manual_seed(0))
        self.down = nn.Parameter(mapping * width**-0.5)
        self.register_buffer("up", vectors)
        self.register_buffer("is_free", is_free)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, free: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        """Compute the rows of the embedding."""
        # Rows without gradient keep what they were initialized with.
        return torch.where(self.is_free > 0, free, free.detach()) + self.up @ self.down


def _map_token_embedding_(model: Captioner, processor: Processor, path: Path) -> None:
    tokenizer = processor.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        raise ConfigError("word_vectors need a tokenizer that was trained by coca, not CLIP's")
    table = unit_vectors(tokenizer.words(), *read_vectors(path))
    if not table.any():
        raise ConfigError(f"{path} has a vector for none of the tokenizer's words")
    embedding = model.get_submodule("unimodal_decoder.token_embedding")
    assert isinstance(embedding, nn.Embedding)
    vectors = torch.zeros(embedding.num_embeddings, table.shape[1])
    vectors[: len(table)] = torch.from_numpy(table)
    add_word_map_(embedding, vectors, learned=tokenizer.learned_size)
    # The branch starts at text embeddings of class names, which are others now.
    start_class_branch_(model, processor)


@torch.no_grad()
def add_word_map_(embedding: nn.Embedding, vectors: Float[Tensor, "V G"], *, learned: int) -> None:
    """Replace a new token embedding by free rows plus a shared map of word vectors."""
    rows, has_vector = embedding.weight, vectors.norm(dim=1) > 0
    rows.copy_(torch.where(has_vector[:, None], 0.0, rows))
    # As numbers: DDP broadcasts buffers, and not every backend broadcasts truth values.
    is_free = ((torch.arange(len(rows)) < learned) | ~has_vector).to(rows.dtype)[:, None]
    added = WordMap(vectors, is_free, rows.shape[1])
    parametrize.register_parametrization(embedding, "weight", added)


def unit_vectors(
    tokens: Sequence[str | None], words: Sequence[str], vectors: Float[ndarray, "N G"]
) -> Float[ndarray, "V G"]:
    """Look up the vector of each token, of unit length; a token without one has zeros.

    The mean of all vectors is subtracted first: it is common to all words and carries no meaning
    (Mu and Viswanath 2018, arXiv 1702.01417).
    """
    row_of = {word: row for row, word in enumerate(words)}
    rows = np.array([-1 if it is None else row_of.get(it, -1) for it in tokens], dtype=np.int64)
    centered = vectors[rows] - vectors.mean(axis=0, dtype=np.float64)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True).clip(min=1e-12)
    return np.where(rows[:, None] >= 0, centered, 0).astype(np.float32)


def read_vectors(path: Path) -> tuple[list[str], Float[ndarray, "N G"]]:
    """Read words or sentences and their vectors, as the scripts in recipes/data write them."""
    try:
        with safe_open(path, framework="np") as file:
            vectors = file.get_tensor("vectors").astype(np.float32)
            words = file.get_tensor("words").tobytes().decode()
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as words with vectors: {error}") from error
    return words.split("\n"), vectors
