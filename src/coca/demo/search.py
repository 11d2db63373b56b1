"""Searches of the demo: text, image and filtered search, recommendation, zero-shot, updates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coca.data.sample import Sample
from coca.demo.photos import IS_PHOTO
from coca.inference.predictor import Predictor
from coca.inference.prompts import prompts_named
from coca.search.milvus.collection import Collection
from coca.search.mining.recommend import recommend
from coca.search.mining.zero_shot import add_classes, nearest_classes
from coca.search.query.engine import SearchEngine
from coca.search.query.in_memory import InMemoryIndex
from coca.search.query.query_terms import Term
from coca.search.records import Hit, content_id
from coca.tasks.retrieval.keyword_search import match, read_answers
from coca.workflows.collections.class_prompts import open_classes

TEXT_QUERIES = (
    "red car",
    "birthday cake",
    "a dog",
    "snow",
    "football",
    "smiling face",
    "key",
    "sailboat",
    "hamburger",
    "green heart",
)
PHOTO_QUERIES = ("a cat", "something to drink", "a motorbike", "a rocket in the sky")
IMAGE_QUERIES = ("1f697", "1f438", "1f34e")
FILTERED_QUERY = ("red", 'metadata["group"] == "Food & Drink"')
POSITIVE, NEGATIVE = ("1f438", "green heart"), "1f697"
"""Positive examples (a drawing and a text), and a negative drawing."""
CLASSES, NAMED = 200, 8
"""Number of class names, and of drawings to classify."""
TAKEN_OUT = ("1f34e", "apple")

Images = Sequence[tuple[Path, Sample]]


@dataclass(frozen=True)
class QueryResult:
    """A query of the report with its hits."""

    text: str
    """The text query, or the name of the query image."""
    filter: str
    """Milvus filter expression; empty if there is none."""
    image: Path | None
    """The query image, or None."""
    hits: Sequence[Hit]
    """Hits, nearest first."""
    title: str = ""
    """Heading, for other operations than a search."""


def run_searches(engine: SearchEngine, images: Images) -> Iterator[QueryResult]:
    """Search by text, among photos, with a filter, and by image."""
    for text in TEXT_QUERIES:
        yield QueryResult(text, "", None, engine.search(text, k=8))
    for text in PHOTO_QUERIES:
        yield QueryResult(text, IS_PHOTO, None, engine.search(text, k=3, filter=IS_PHOTO))
    text, filter = FILTERED_QUERY
    yield QueryResult(text, filter, None, engine.search(text, k=8, filter=filter))
    by_code = {path.stem: (path, sample) for path, sample in images}
    for code in IMAGE_QUERIES:
        path, sample = by_code[code]
        # The first hit is the image itself.
        yield QueryResult(sample.captions[0], "", path, engine.search(image=path, k=9)[1:])


def score_search(engine: SearchEngine, images: Images) -> dict[str, int | float]:
    """Compute how many of the 100 everyday queries find a correct drawing by `coca search`.

    Queries without a correct drawing among `images` are left out.
    """
    answers = read_answers("everyday")
    assert answers is not None
    queries, relevant, _ = match(answers, [sample for _, sample in images])
    ids = np.array([content_id(sample.image) for _, sample in images])
    ranks = []
    for query, correct in zip(queries, relevant, strict=True):
        expected = {*ids[correct].tolist()}
        hits = engine.search(query, k=10)
        ranks.append(next((n for n, hit in enumerate(hits, 1) if hit.id in expected), np.inf))
    scores = {f"success@{k}": float((np.array(ranks) <= k).mean()) for k in (1, 5, 10)}
    return {**scores, "samples": len(queries)}


def use_collection(
    predictor: Predictor, index: Collection, uri: str, images: Images
) -> Iterator[QueryResult]:
    """Recommend images, classify by a collection of classes, delete an image and add it again."""
    engine = SearchEngine(predictor, index)
    by_code = {path.stem: (path, sample) for path, sample in images}
    (code, text), (path, sample) = POSITIVE, by_code[POSITIVE[0]]
    positive, negative = content_id(sample.image), content_id(by_code[NEGATIVE][1].image)
    hits = recommend(engine, [positive, Term(text=text)], negative=[negative], k=8, diversity=0.3)
    title = (
        f"Recommended: like “{sample.captions[0]}” and “{text}”, "
        f"unlike “{by_code[NEGATIVE][1].captions[0]}”"
    )
    yield QueryResult(sample.captions[0], "", path, hits, title)
    yield _named(predictor, uri, images)
    code, text = TAKEN_OUT
    id = content_id(by_code[code][1].image)
    taken_out = index.get([id])
    index.delete([id])
    hits = engine.search(text, k=8)
    yield QueryResult(text, "", None, hits, f"“{text}”, its drawing deleted")
    index.upsert(taken_out.values())
    hits = engine.search(text, k=8)
    yield QueryResult(text, "", None, hits, f"“{text}”, its drawing re-added")


def _named(predictor: Predictor, uri: str, images: Images) -> QueryResult:
    """Classify some drawings by the nearest class in a collection of class names."""
    some = images[:: max(1, len(images) // CLASSES)][:CLASSES]
    names = list(dict.fromkeys(sample.captions[0] for _, sample in some))
    shown = some[:: max(1, len(some) // NAMED)][:NAMED]
    with open_classes(predictor, uri, "names", create=True) as classes:
        add_classes(classes, predictor, names, templates=prompts_named("drawing"))
        vectors = predictor.embed_images([sample.image for _, sample in shown])
        nearest = nearest_classes(InMemoryIndex(classes), vectors, k=1)
    hits = [
        Hit(
            id=content_id(sample.image),
            score=best.score,
            path=str(path),
            caption=f"{best.label} (true: {sample.captions[0]})",
            metadata={},
        )
        for (path, sample), (best,) in zip(shown, nearest, strict=True)
    ]
    return QueryResult("", "", None, hits, f"Nearest of {len(names)} classes in Milvus")
