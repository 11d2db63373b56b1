"""Losses of the model `everyday`: two teachers, and word vectors for words of no caption.

    coca pretrain recipe:everyday --plugin recipes/pretrain/everyday_losses.py

`classifier`: the image encoder's own classifier is the teacher, as its published weights have it.
No image needs a label. Its softmax over a sample of its classes is compared with the softmax over
the cosines of an image with the text embeddings of these class names in prompts. The sum of the
probabilities of all classes below a noun of WordNet, such as "dog", says how much of a dog an image
shows: it is compared with the softmax over images of the cosines with the noun. And while the
encoder's last stages are trained, their classifier is compared with the published one.

`copying`: the decoder learns to write the name of the most probable class that it reads.

`sentences`: a sentence encoder is the teacher, by text without images. A few thousand captioned
photos teach which words are seen, but not which sentences mean the same. The softmax over the
cosines of its vectors of some sentences is compared with that of their text embeddings. So only
relations of sentences are learned (Park et al. 2019, arXiv 1904.05068), and vectors of both may
have different sizes. A sentence in another language may have the vector of its translation
(Reimers and Gurevych 2020, arXiv 2004.09813). With `word_vectors`, each row of the token embedding
is a free row plus a map of the token's word vector, and all tokens share the map. Only tokens of
captions train their free row, so the row of any other word stays close to those of similar words.

All are KL divergences in nats, as the mean over images, nouns or sentences.

Dimensions: B images, C classes of the classifier, K sampled classes, nouns or sentences, N prompts
or sentences, T tokens, E embedding, G numbers of a teacher's vector, V tokens of the vocabulary, D
width.
"""

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import Field, NonNegativeFloat, PositiveFloat
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from coca.core.errors import ConfigError, ModelError
from coca.data.batch import Batch
from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa, CoCaOutput
from coca.model.encoders.encoder import EncodedImages
from coca.model.layers.transformer import unit
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from coca.train.losses import AUXILIARY_LOSSES, AuxiliaryConfig, AuxiliaryLoss
from coca.workflows.training.init_weights import class_texts, start_class_branch_

sys.path.append(str(Path(__file__).parents[1] / "data"))
from class_photos import with_article


class ClassifierConfig(AuxiliaryConfig):
    """Settings of the loss `classifier`."""

    kind: str = "classifier"
    classes: Annotated[int, Field(ge=2)] = 256
    """Classes of the classifier in each step, at least 2. The most likely class of each image is
    among them if there is room; the others are drawn at random. Fewer cost less."""
    hypernyms: Path
    """File of nouns above the classes, as `recipes/data/hypernyms.py` writes it."""
    nouns: Annotated[int, Field(ge=2)] = 128
    """Nouns in each step, at least 2: those with the largest mass of an image first."""
    noun_weight: NonNegativeFloat = 1.0
    """Weight of the part of nouns, where that of class names has 1."""
    keep_weight: NonNegativeFloat = 1.0
    """Weight of the part that keeps the classifier as it was while its encoder is trained."""
    branch_weight: NonNegativeFloat = 1.0
    """Weight of the parts of names and nouns for the vectors of the class branch, each as the
    embedding of an image that is surely of its class. So classes that few photos show are learned
    from their names."""
    sources: tuple[str, ...] = ()
    """Names of the sources whose images are distilled: a classifier of photos does not teach
    drawings. Default: all."""


@AUXILIARY_LOSSES.register("classifier")
class Classifier(AuxiliaryLoss):
    """Distill the image encoder's classifier into the shared embedding space."""

    config_class = ClassifierConfig

    def __init__(self, config: ClassifierConfig, model: CoCa, processor: Processor) -> None:
        """Tokenize the prompts of all classes and nouns, and copy the classifier as it is now."""
        encoder = model.image_encoder
        if encoder.class_names is None:
            raise ConfigError(
                "loss.auxiliary has a classifier, but the image encoder has none with class names; "
                "choose an encoder with model.image.classes 1000"
            )
        self.config = config
        nouns = read_nouns(config.hypernyms)
        names = [class_texts(name) for name in encoder.class_names]
        words = [noun_texts(noun["words"], noun["german"]) for noun in nouns]
        self._prompts = Prompts([*names, *words], processor)
        self._below = torch.zeros(len(names), len(nouns))
        for column, noun in enumerate(nouns):
            self._below[noun["classes"], column] = 1
        self._teacher = copy.deepcopy(encoder).requires_grad_(False).eval()
        # The student's logits are those of the model's forward pass, before the losses run.
        self._logits: list[Tensor] = []
        encoder.backbone.get_classifier().register_forward_hook(  # type: ignore[union-attr, operator]
            lambda module, inputs, output: self._note(output)
        )

    def _note(self, logits: Float[Tensor, "B C"]) -> None:
        if torch.is_grad_enabled():
            self._logits = [logits]

    def __call__(self, model: CoCa, batch: Batch, output: CoCaOutput) -> Float[Tensor, ""]:
        """Compute the weighted sum of all parts."""
        images = output.image_embedding
        assert images is not None, "auxiliary losses have the embeddings"
        logits = self._logits.pop() if self._logits else None
        features, device = batch.images, images.device
        if wanted := self.config.sources:
            kept = torch.tensor([it in wanted for it in batch.sources], device=device)
            images, features = images[kept], features[kept]
            logits = None if logits is None else logits[kept]
        if len(images) == 0:
            return images.sum()
        with torch.no_grad():
            teacher = self._teacher.to(device)
            if features.ndim > 3:
                features = teacher.features(features)
            target = teacher.classify(teacher.finish(features.to(model.log_scale.dtype))).float()
            mass = target.softmax(dim=1) @ self._below.to(device)
        classes = draw_first(target.argmax(dim=1), target.shape[1], self.config.classes)
        chance = 1e-3 * torch.rand(mass.shape[1]).to(device)
        nouns = (mass.amax(dim=0) + chance).topk(min(self.config.nouns, mass.shape[1])).indices
        tokens = self._prompts.draw(torch.cat([classes, target.shape[1] + nouns]))
        texts = model.encode_text(tokens.to(device))
        # In fp32: half precision would round cosines, which the scale then multiplies.
        with torch.autocast(device.type, enabled=False):
            scaled, counts = model.logit_scale.float() * texts.float(), (len(classes), len(nouns))
            of_names, of_nouns = (images.float() @ scaled.T).split(counts, dim=1)
            loss = divergence(of_names, target[:, classes])
            loss = loss + self.config.noun_weight * noun_loss(of_nouns, mass[:, nouns])
            if isinstance(model, ClassCoCa) and model.class_branch is not None:
                vectors = unit(model.class_branch.vectors[classes].float())
                of_names, of_nouns = (vectors @ scaled.T).split(counts, dim=1)
                own = torch.arange(len(classes), device=device)
                below = self._below.to(device)[classes][:, nouns]
                part = F.cross_entropy(of_names, own)
                part = part + self.config.noun_weight * noun_loss(of_nouns, below)
                loss = loss + self.config.branch_weight * part
            if logits is not None:
                loss = loss + self.config.keep_weight * divergence(logits.float(), target)
            return loss


class CopyingConfig(AuxiliaryConfig):
    """Settings of the loss `copying`."""

    kind: str = "copying"
    source: str
    """Name of the source of photos that each show one thing."""


@AUXILIARY_LOSSES.register("copying")
class Copying(AuxiliaryLoss):
    """Teach the decoder to write the name of the most probable class that it reads.

    The photos of single things keep their image tokens, but their class tokens are those of another
    class, and their caption is its name. So all names are copied, also those that no photo shows.
    """

    config_class = CopyingConfig

    def __init__(self, config: CopyingConfig, model: CoCa, processor: Processor) -> None:
        """Tokenize the first name of each class."""
        names = model.image_encoder.class_names
        if names is None or not isinstance(model, ClassCoCa) or model.class_tokens is None:
            raise ConfigError(
                "loss.auxiliary has copying, but the decoder reads no classes with names; set "
                "model.image.classes to 1000 and model.image.class_tokens above 0"
            )
        self.config = config
        self._captions = processor.texts([with_article(name.split(", ")[0]) for name in names])

    def __call__(self, model: CoCa, batch: Batch, output: CoCaOutput) -> Float[Tensor, ""]:
        """Compute the captioning loss of the names, as the mean over their tokens."""
        kept = torch.tensor([it == self.config.source for it in batch.sources])
        if not kept.any():
            return model.log_scale.new_zeros(())
        with torch.no_grad():
            encoded = model.encode(batch.images[kept.to(batch.images.device)])
        classes = torch.randint(len(self._captions), (len(encoded.tokens),))
        sure = F.one_hot(classes, len(self._captions)).to(encoded.tokens)
        tokens = self._captions[classes]
        tokens = tokens[:, : int((tokens != model.config.text.pad_id).sum(dim=1).max())]
        tokens = tokens.to(sure.device)
        assert isinstance(model, ClassCoCa)
        assert model.class_tokens is not None
        likely = model.class_tokens
        likely.eval()  # drops no classes
        image_tokens = model.pool_tokens(EncodedImages(encoded.tokens, sure))
        likely.train(model.training)
        read = model.multimodal_decoder.read_image(image_tokens)
        states = model.multimodal_decoder(model.unimodal_decoder(tokens), read)
        labelled = model.label_mask(tokens)[:, :-1]
        logits = F.linear(states[:, :-1][labelled], model.vocabulary_weight)
        return F.cross_entropy(logits.float(), tokens[:, 1:][labelled])


def noun_loss(cosines: Float[Tensor, "B K"], mass: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Compute how far each noun is from ranking the images by its mass, as KL divergence in nats.

    The softmax over images of the scaled cosines with a noun is compared with its mass, the sum of
    the probabilities of all classes below it, over the sum of all images. A noun that no image
    shows counts little, so that siblings below one noun are not separated by it.
    """
    total = mass.sum(dim=0)
    weights = total.clamp(max=1)
    target = mass / total.clamp(min=1e-9)
    student = F.log_softmax(cosines, dim=0)
    apart = F.kl_div(student, target, reduction="none").sum(dim=0)
    return (weights * apart).sum() / weights.sum().clamp(min=1e-9)


def read_nouns(path: Path) -> list[dict[str, Any]]:
    """Read the nouns above the classes, as `recipes/data/hypernyms.py` writes them."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["nouns"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read as nouns above classes: {error}") from error


class Prompts:
    """Tokenized prompts of some concepts, several of each."""

    def __init__(self, texts: Sequence[Sequence[str]], processor: Processor) -> None:
        """Tokenize the prompts of each concept."""
        self._tokens = processor.texts([text for own in texts for text in own])
        self._counts = torch.tensor([len(own) for own in texts])
        self._first = self._counts.cumsum(0) - self._counts

    def draw(self, concepts: Int[Tensor, " K"]) -> Int[Tensor, "K T"]:
        """Draw one prompt of each concept."""
        counts, first = self._counts[concepts.cpu()], self._first[concepts.cpu()]
        drawn = (torch.rand(len(counts)) * counts).long()
        return self._tokens[first + drawn.minimum(counts - 1)]


def noun_texts(words: Sequence[str], german: Sequence[str]) -> list[str]:
    """List the prompts of a noun: as typed, in sentences, and in German."""
    templates = ("{}", "a {}", "a photo of a {}")
    texts = [template.format(word) for word in words[:2] for template in templates]
    return [*texts, *german, *(f"ein bild von {word}" for word in german[:1])]


def draw_first(first: Int[Tensor, " N"], total: int, count: int) -> Int[Tensor, " K"]:
    """Draw numbers below `total`, sorted: those of `first`, then any others.

    With more different ones in `first` than `count`, a random part of them is kept.
    """
    priority = torch.rand(total).to(first.device)
    priority[first.unique()] += 1
    return priority.topk(min(count, total)).indices.sort().values


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

    def __init__(self, config: SentencesConfig, model: CoCa, processor: Processor) -> None:
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

    def __call__(self, model: CoCa, batch: Batch, output: CoCaOutput) -> Float[Tensor, ""]:
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


def _map_token_embedding_(model: CoCa, processor: Processor, path: Path) -> None:
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
