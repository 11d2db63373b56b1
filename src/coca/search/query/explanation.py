"""Why a record has its place among the hits of a query.

The cosine of a query and a vector is the sum over its terms of weight x cosine of term and vector,
over the length of the terms' weighted sum. So a score splits into parts of terms, in its own scale.

Dimensions: T terms, E embedding, K labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import DataError, UnsupportedError
from coca.predict.image_reading import ImageReading, WordReading
from coca.predict.inputs import Prediction
from coca.processing.caption_words import CAPTION_WORDS_FILE, CaptionWords
from coca.search.filter_language import conditions_of
from coca.search.filters import all_of, where
from coca.search.query.background import text_vectors
from coca.search.query.originals import ImageOpener, read_original
from coca.search.query.query_terms import Term, content_words
from coca.search.records import ID, CaptionSource, Hit, Record
from coca.search.search_options import QueryOptions, Ranking
from coca.search.store import Collection

Source: TypeAlias = Literal["image", "caption", "words", "text", "likelihood"]
"""What is compared with the query: the image, its caption, the words of the record by BM25, the
text of labels and inside the image; `likelihood` is that of reranking."""


@dataclass(frozen=True)
class Part:
    """A part of a score."""

    source: Source
    term: str
    """Text of the term, `image` or `vector`; empty for a part of all texts."""
    value: float
    """In the scale of the score: weighted cosines, or nats of a reranked hit."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a record has its place among the hits of a query."""

    id: str
    path: str
    rank: int | None
    """Place among all hits, from 1; None if the query does not find it."""
    score: float | None
    """Sort key, also of a record that a filter excludes; None if it has none."""
    parts: tuple[Part, ...]
    """Parts of the score, which is their sum."""
    against: tuple[str, ...]
    """What keeps it down, in sentences."""
    caption: str
    caption_source: CaptionSource
    labels: tuple[Prediction, ...]
    """The five most probable labels of the image's vector, see `label_vectors`."""
    words: tuple[WordReading, ...]
    missing: Mapping[str, str]
    """Fields that this model or image does not have, with the reason."""


def sort_score(hit: Hit) -> float:
    """Return the score by which a hit is sorted."""
    scores = (hit.rank_score, hit.fused_score, hit.score)
    return next(score for score in scores if score is not None)


def score_parts(
    hit: Hit,
    record: Record,
    terms: Sequence[Term],
    vectors: Float[np.ndarray, "T E"],
    options: QueryOptions,
    ranking: Ranking | None,
    logit_scale: float,
) -> tuple[Part, ...]:
    """Split the sort key of a hit; `vectors` are those of the terms, of length 1."""
    weighted = np.array([[term.weight] for term in terms]) * vectors
    weighted /= np.linalg.norm(weighted.sum(axis=0))
    names = [term.text or ("vector" if term.image is None else "image") for term in terms]
    side: Source = "image" if options.on == "image" else "caption"
    factors = [(side, 1.0 if hit.rank_score is None else logit_scale, side == "image")]
    others = [] if hit.rank_score is None else [Part("likelihood", "", hit.log_likelihood or 0.0)]
    if hit.rank_score is None and ranking is not None and hit.parts is not None:
        factors = [("image", ranking.image_weight, True)]
        # What the caption adds is divided as its cosine is.
        if hit.caption_score and (added := hit.parts["caption"]):
            factors.append(("caption", added / hit.caption_score, False))
        words: tuple[Source, ...] = ("words", "text")
        others = [Part(name, "", hit.parts[name]) for name in words if hit.parts.get(name)]
    cosines = []
    for source, factor, is_image in factors:
        vector = record.vector if is_image else record.text_vector
        assert vector is not None
        values = (factor * (weighted @ vector.astype(np.float64))).tolist()
        cosines += [Part(source, name, value) for name, value in zip(names, values, strict=True)]
    return (*cosines, *others)


def reasons_against(
    collection: Collection,
    record: Record,
    parts: Sequence[Part],
    terms: Sequence[Term],
    options: QueryOptions,
    *,
    hits: Sequence[Hit],
    row: int | None,
    found: Hit | None,
) -> Iterator[str]:
    """Name what keeps a record down; `row` is that of its group in `hits`, `found` its own hit."""
    if record.hidden:
        yield "it is hidden"
    for condition in conditions_of(options.filter):
        if not collection.count(all_of(where(ID, "==", record.id), condition)):
            yield f"the filter {condition} excludes it"
    if options.on == "text" and record.text_vector is None:
        yield "it has no caption to compare with"
    if found and options.min_score is not None and found.score < options.min_score:
        yield f"its cosine {found.score:.3f} is below the minimum of {options.min_score:g}"
    if row is not None and hits[row].id != record.id:
        yield f"{PurePath(hits[row].path).name} is the hit of its image or album"
    for term in terms:
        taken = sum(part.value for part in parts if term.text and part.term == term.text)
        if term.weight < 0 and taken < 0:
            yield f"{term.text!r} with weight {term.weight:g} takes {-taken:.3f}"
    last = options.offset + options.limit
    if len(hits) >= last and (row is None or row >= last):
        yield f"hit {last} has a score of {sort_score(hits[last - 1]):.3f}"


def read_record(
    embedder: Any, record: Record, terms: Sequence[Term], open_image: ImageOpener
) -> tuple[ImageReading, tuple[Prediction, ...], dict[str, str]]:
    """Read words, labels and, if it has none, a caption of a record; also what is missing."""
    reading, missing = ImageReading(), dict[str, str]()
    # Other embedders need not have it; see `Predictor.read_image`.
    if not (read := getattr(embedder, "read_image", None)):
        return reading, (), dict.fromkeys(("labels", "words", "map"), "the model embeds only")
    words = list(dict.fromkeys(it for term in terms for it in content_words(term.text or "")))
    # The messages of the errors have paths, which a service does not report.
    try:
        image = read_original(record, open_image)
        reading = read(image, words, captioned=not record.caption)
    except DataError:
        missing |= dict.fromkeys(("words", "map"), "the image cannot be read any more")
    except UnsupportedError:
        missing |= dict.fromkeys(("words", "map"), "the model has no decoder for captions")
    if any(word.map is None for word in reading.words):
        missing["map"] = "only a model on torch whose decoder reads unpooled cells has it"
    labels, vectors = label_vectors(embedder)
    if not labels:
        missing["labels"] = "the model has no list of words"
        return reading, (), missing
    logits = embedder.logit_scale * vectors @ record.vector
    likely = np.exp(logits - logits.max())
    best = np.argsort(-likely)[:5]
    shares = (likely[best] / likely.sum()).tolist()
    return reading, tuple(map(Prediction, [labels[it] for it in best], shares)), missing


def label_vectors(embedder: Any) -> tuple[list[str], Float32[np.ndarray, "K E"]]:
    """Embed the labels of a model: nouns of its classes, else words of its captions, else none."""
    listed = CaptionWords.load(Path(embedder.source) / CAPTION_WORDS_FILE) or CaptionWords.of(())
    words = [noun.words[0] for noun in listed.nouns] or listed.chosen("polite")
    words = [word for word in dict.fromkeys(words) if len(word) > 2]
    return words, text_vectors(embedder, words)
