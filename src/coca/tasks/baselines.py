"""Trivial baselines of scores, such as chance, or an image encoder alone.

A metric of a baseline has the name of the score with a prefix, such as `majority_top1`:

    chance     random ranking, or guessing
    majority   the most frequent class or answer
    blind      the question without its image
    encoder    the classifier of a pretrained image encoder; no text model
    nearest    the human caption of the nearest other image; nothing is generated

Dimensions: N images, M texts, C classes of the data, K classes of the encoder.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError, DataError
from coca.core.progress import progress_bar
from coca.data.loading.text import humanize_label
from coca.metrics.intervals import interval_shown
from coca.metrics.retrieval import first_relevant_rank
from coca.model.encoders.encoder import IMAGE_ENCODERS, ImageEncoderConfig
from coca.model.encoders.encoder_weights import EncoderWeightsConfig, load_encoder_weights
from coca.model.layers.prepacked import prepack_weights
from coca.predict.predictor import Predictor
from coca.predict.torch_predictor import require_coca
from coca.search.sqlite import postings
from coca.search.sqlite.codes import BLOCK_ROWS
from coca.search.words import analyzed, query_terms

BASELINES = {
    "chance": "chance",
    "majority": "most frequent",
    "blind": "question alone",
    "encoder": "encoder alone",
    "nearest": "caption of the nearest image",
}
"""Prefix of the metrics of a baseline, and its name in tables; a plug-in may add others."""
SCORE_COLUMNS = ("score", "value", "95 %", "by chance", "strongest baseline")
"""Columns of a table of scores."""


def without_baselines(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the scores of a model, without chance levels and baselines."""
    return {name: value for name, value in metrics.items() if not _is_baseline(name, metrics)}


def strongest_baseline(metrics: Mapping[str, float], score: str) -> tuple[str, float] | None:
    """Return name and value of the strongest baseline of a score; None if only chance is known."""
    found = [
        (metrics[f"{prefix}_{score}"], name)
        for prefix, name in BASELINES.items()
        if prefix != "chance" and f"{prefix}_{score}" in metrics
    ]
    if not found:
        return None
    value, name = max(found)
    return name, value


def baseline_shown(metrics: Mapping[str, float], score: str) -> str:
    """Format the strongest baseline of a score for a table; empty if only chance is known."""
    found = strongest_baseline(metrics, score)
    return "" if found is None else f"{found[1]:.4g} ({found[0]})"


def score_rows(
    metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> list[list[str]]:
    """Format the scores of a task as the rows of a table with `SCORE_COLUMNS`."""
    return [
        [
            name,
            f"{value:.4g}",
            interval_shown(intervals.get(name)),
            f"{metrics[chance]:.4g}" if (chance := f"chance_{name}") in metrics else "",
            baseline_shown(metrics, name),
        ]
        for name, value in without_baselines(metrics).items()
    ]


def _is_baseline(name: str, metrics: Mapping[str, float]) -> bool:
    prefix, _, score = name.partition("_")
    return prefix == "chance" or (prefix in BASELINES and score in metrics)


def class_guesses(score: str, targets: Int[ndarray, " N"], classes: int) -> dict[str, float]:
    """Compute the accuracy of guessing a class, and of always the most frequent class."""
    most_frequent = float(np.bincount(targets).max() / len(targets))
    return {f"chance_{score}": 1 / classes, f"majority_{score}": most_frequent}


def bm25_matrix(texts: Sequence[str], queries: Sequence[str]) -> Float[ndarray, "M N"]:
    """Compute the BM25 of the words of each query in each text; 0 where they share none."""
    scores = np.zeros((len(queries), len(texts)), np.float32)
    with closing(sqlite3.connect(":memory:")) as connection:
        postings.create(connection, "texts")
        rows = [analyzed({"caption": text}) for text in texts]
        for start in range(0, len(rows), BLOCK_ROWS):
            block = dict(enumerate(rows[start : start + BLOCK_ROWS], start))
            postings.write(connection, "texts", start // BLOCK_ROWS, block)
        mean_length = sum(words.length for words in rows) / max(len(texts), 1)
        for query, own in zip(queries, scores, strict=True):
            found, bm25 = postings.Postings(connection, "texts", len(texts)).scores(
                query_terms(query),
                records=len(texts),
                mean_length=mean_length,
            )
            own[found] = bm25
    return scores


def recalls(similarity: Float[ndarray, "M N"], relevant: Bool[ndarray, "M N"]) -> dict[str, float]:
    """Compute recall at 1, 5 and 10; an image with a similarity of minus infinity is not a hit."""
    hit = (relevant & (similarity > -np.inf)).any(axis=1)
    ranks = np.where(hit, first_relevant_rank(similarity, relevant), np.inf)
    return {f"recall@{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}


class ClassifierConfig(Config):
    """A pretrained image encoder with its own classifier of ImageNet's classes."""

    image: ImageEncoderConfig
    """The encoder; `classes` is 1000."""
    weights: EncoderWeightsConfig
    """Its weights."""


class EncoderClassifier:
    """The classifier that an image encoder was pretrained with, as a baseline."""

    def __init__(self, config: ClassifierConfig, predictor: Predictor) -> None:
        """Build the encoder and load its weights."""
        own = require_coca(predictor).processor
        self._encoder = IMAGE_ENCODERS.get(config.image.kind)(config.image).eval()
        if self._encoder.class_names is None:
            raise ConfigError(
                f"the encoder {config.image.kind} has no classifier with known classes; set "
                "classifier.image.classes to 1000"
            )
        load_encoder_weights(self._encoder, config.weights)
        prepack_weights(self._encoder)
        self.names = [
            [name.strip() for name in names.split(",")] for names in self._encoder.class_names
        ]
        trained = config.image.normalization()
        self._processor = own.with_image(
            own.image_config.replace(
                image_size=config.image.image_size,
                mean=trained.mean,
                std=trained.std,
                interpolation=trained.interpolation,
            )
        )
        self._batch_size = predictor.batch_size

    @torch.inference_mode()
    def probabilities(self, images: Sequence[bytes]) -> Float[ndarray, "N K"]:
        """Compute the probability of each of the encoder's classes for each image."""
        size = self._batch_size
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        rows = []
        with progress_bar("classifying by the encoder", len(images)) as bar:
            for pixels in self._processor.image_batches(parts):
                logits = self._encoder.classify(self._encoder.features(pixels))
                rows.append(logits.softmax(dim=1).numpy())
                bar.advance(len(pixels))
        return np.concatenate(rows)

    def among(
        self, classes: Sequence[str], probabilities: Float[ndarray, "N K"]
    ) -> Float[ndarray, "N C"]:
        """Restrict probabilities to the classes of the data.

        A class is each class of the encoder that has its name. Of two classes of the encoder with
        one name, such as the two cranes, the more probable counts.
        """
        rows: dict[str, list[int]] = {}
        for row, names in enumerate(self.names):
            for name in names:
                rows.setdefault(humanize_label(name).casefold(), []).append(row)
        unknown = [name for name in classes if name.casefold() not in rows]
        if unknown:
            raise DataError(
                f"the classifier of the encoder does not know {len(unknown)} of {len(classes)} "
                f"classes, such as {unknown[0]!r}; leave out classifier",
                reason="unknown_label",
            )
        columns = [probabilities[:, rows[name.casefold()]].max(axis=1) for name in classes]
        return np.stack(columns, axis=1)

    def match_texts(
        self, texts: Sequence[str], probabilities: Float[ndarray, "N K"]
    ) -> Float[ndarray, "M N"]:
        """Compute the expected BM25 score of each text with the class name of each image.

        Minus infinity where a text shares no word with the name of a class.
        """
        scores = bm25_matrix([" ".join(names) for names in self.names], texts)
        shared = np.asarray(scores.any(axis=1))
        return np.where(shared[:, None], scores @ probabilities.T, -np.inf)
