"""Typed queries for a tag, person, city, album or file: is the first hit right?

    python benchmarks/labels.py --images 'photos/*.tar'

Images get random labels, so that nothing that they show helps. A query is one label, or a label
with a noun: an image is right for "Anna with a dog" if it has the label, and a caption of it has
the noun or a word for the same. No image, 1, 10, 50 or 100 % of them have their first caption. Next
to the ranking are the images alone and the words alone (BM25), in the same state, and the images
with the label, ordered by the noun alone: what the model can do if the label is known. Precision is
that of the first five hits, or of as many as there are.
"""

import argparse
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Float32
from options import run
from sample_data import SCORED, located
from side_by_side import Figures, Rounds, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.predict.predictor import Predictor
from coca.search.query.background import spreads_of
from coca.search.query.query_terms import embed_queries
from coca.search.ranking import TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.store import Collection
from coca.search.stores import open_collection
from coca.search.words import terms_of, without_labels

TAGS = (
    *("Christmas", "Wedding", "Birthday party", "Conference"),
    *("Halloween", "Easter", "Marathon", "Graduation"),
)
PEOPLE = (
    *("Anna", "Tom Miller", "Grandma", "Uncle Bob"),
    *("Peter", "Sarah Connor", "Li Wei", "Jürgen"),
)
CITIES = (
    *("Berlin", "Lisbon", "New York", "München"),
    *("Kyoto", "Cape Town", "Paris", "Reykjavik"),
)
ALBUMS = (
    *("2022 Road Trip", "Garden_Project", "Kinder im Garten", "Summer Camp"),
    *("Office", "Zoo Visit", "Beach Holiday", "Skiing 2021"),
)
FILES = 8
"""Number of queries for a file name."""
OTHERS = ("2019", "2020", "Camera Roll")
"""Albums that no query names."""
YEARS = range(2012, 2020)
NOUNS = {
    "dog": "dog puppy",
    "beach": "beach sand ocean sea surf",
    "car": "car truck vehicle van",
    "snow": "snow snowy ski skier snowboard snowboarder sled",
    "water": "water pool ocean river lake sea swim",
    "bike": "bike bicycle biker cyclist motorcycle",
    "ball": "ball football soccer basketball tennis baseball",
    "horse": "horse rodeo",
}
"""Nouns, with the words of captions of photos that show them."""
PHRASES = ("{label} with a {noun}", "{noun} {label}", "{label} {noun}", "a {noun} in {label}")
WITH_NOUN, LEAST = 20, 3
"""Number of queries for a label with a noun, and of correct images that each has at least."""
FRACTIONS = (0.0, 0.01, 0.1, 0.5, 1.0)
"""Fractions of captioned images."""
METHODS: dict[str, Callable[[Collection, TypedQuery], list[str]]] = {
    "images": lambda records, query: [
        hit.id for hit in records.nearest(query.vector[np.newaxis], SearchOptions(limit=5))[0]
    ],
    "words": lambda records, query: [id for id, _ in records.words(query.text, 5)],
    "ranking": lambda records, query: [
        hit.id for hit in records.ranked(query, Ranking(), SearchOptions(limit=5))
    ],
}
QUICK = {"size": 300, "rounds": 1}
UNITS = {"*": "fraction"}


@dataclass(frozen=True)
class Answer:
    """Which images are right for a query."""

    right: Set[str]
    """Their ids."""
    labelled: Set[str]
    """Ids of all images with the label."""
    rest: str
    """Query without the label, or the label if it is all."""


def labelled(
    size: int, nouns: Mapping[str, Set[int]]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Answer]]]:
    """Draw the fields of records, and the answers of each query of both kinds.

    Args:
        size: Number of records.
        nouns: Rows that show each noun.
    """
    chance = random.Random(0)
    answers: dict[str, set[str]] = defaultdict(set)
    # A folder may be named after another year than that of a photo in it: both are its labels.
    dated = {str(year): set[str]() for year in YEARS}
    records = list[dict[str, Any]]()
    for row in range(size):
        some = [
            chance.choice(labels) if chance.random() < 0.3 else ""
            for labels in (TAGS, PEOPLE, CITIES, ALBUMS)
        ]
        tag, person, city, album = some
        year = chance.choice(YEARS)
        name = f"IMG_{1_000 + row}.JPG"
        file = [name.split(".")[0] if row % 2 else name] if row % (size // FILES) == 1 else []
        for label in filter(None, (*some, *file)):
            answers[label].add(str(row))
        parent = album or chance.choice(OTHERS)
        for written in {parent, str(year)} & {*dated}:
            dated[written].add(str(row))
        folder = f"/home/anna/Pictures/{parent}"
        tags = (tag, "edited") if tag else ("edited",)
        metadata = {"people": [person], "city": city, "camera": "NIKON D90"}
        time = int(datetime(year, 6, 1, tzinfo=UTC).timestamp())
        fields = {"tags": tags, "metadata": metadata, "album": folder, "time": time}
        records.append({"id": str(row), "path": f"{folder}/{name}", **fields})
    named = {label: rows for label, rows in answers.items() if not label.startswith("IMG")} | dated
    both: dict[str, Answer] = {}
    while len(both) < WITH_NOUN:
        label, noun = chance.choice([*named]), chance.choice([*NOUNS])
        right = named[label] & {*map(str, nouns[noun])}
        if len(right) >= LEAST:
            text = chance.choice(PHRASES).format(label=label, noun=noun)
            both[text] = Answer(right, named[label], noun)
    alone = {label: Answer(rows, rows, label) for label, rows in answers.items()}
    return records, {"label": alone, "label with a noun": both}


def score(answer: Answer, ids: Sequence[str], first: list[bool], precision: list[float]) -> None:
    """Append whether the first of at most five hits is right, and their precision."""
    correct = [id in answer.right for id in ids] or [False]
    first.append(correct[0])
    precision.append(sum(correct) / min(5, len(answer.right)))


def label_known(
    model: Predictor, images: Float32[np.ndarray, "N E"], answers: Mapping[str, Answer]
) -> str:
    """Order the images that have the label by the rest of each query."""
    first, precision = list[bool](), list[float]()
    vectors = embed_queries(model.embed_texts, [answer.rest for answer in answers.values()])
    for answer, vector in zip(answers.values(), vectors, strict=True):
        ids = sorted(answer.labelled, key=lambda id: -float(images[int(id)] @ vector))
        score(answer, ids[:5], first, precision)
    return f"{sum(first)} / {np.mean(precision):.2f}"


def referee(arguments: argparse.Namespace) -> Rounds:
    model = coca.load(arguments.model)
    source = open_source(ShardsConfig(path=located(arguments.images)))
    samples = [source.read(row) for row in range(min(arguments.size, len(source)))]
    images = model.embed_images([sample.image for sample in samples])
    captions = [sample.captions[0] for sample in samples]
    texts = model.embed_texts(captions)
    terms = [[set(terms_of(caption)) for caption in sample.captions] for sample in samples]
    nouns = {
        noun: {
            row
            for row, written in enumerate(terms)
            if any(not some.isdisjoint(terms_of(words)) for some in written)
        }
        for noun, words in NOUNS.items()
    }
    fields, kinds = labelled(len(samples), nouns)
    known = {kind: label_known(model, images, answers) for kind, answers in kinds.items()}
    figures: Figures = {}
    rows = []
    for fraction in FRACTIONS:
        has_caption = np.random.default_rng(0).random(len(samples)) < fraction
        records = [
            Record(
                **own,
                caption=captions[row] if has_caption[row] else "",
                vector=images[row],
                text_vector=texts[row] if has_caption[row] else None,
            )
            for row, own in enumerate(fields)
        ]
        with (
            tempfile.TemporaryDirectory() as folder,
            open_collection(
                f"{folder}/x.db", create=True, embed_dim=images.shape[1], fingerprint="model"
            ) as collection,
        ):
            collection.upsert(records)
            for kind, answers in kinds.items():
                left = [without_labels(text, collection.labels_in(text)) for text in answers]
                queries = embed_queries(model.embed_texts, left)
                plain = embed_queries(model.embed_texts, list(answers))
                shown = []
                for name, search in METHODS.items():
                    first, precision = list[bool](), list[float]()
                    vectors = queries if name == "ranking" else plain
                    for (text, answer), query in zip(answers.items(), vectors, strict=True):
                        typed = TypedQuery(query, text, spreads_of(model, query))
                        score(answer, search(collection, typed), first, precision)
                    title = f"{kind}, {fraction:.0%} captioned, {name}"
                    figures[f"{title}, first"] = float(np.mean(first))
                    figures[f"{title}, precision"] = float(np.mean(precision))
                    shown.append(f"{sum(first)} / {np.mean(precision):.2f}")
                shown.append(known[kind])
                rows.append([kind, str(len(answers)), f"{fraction:.0%}", *shown])
    rounds = Rounds({"labels": [figures]})
    title = f"Queries for labels of {len(samples):,} images: first hits right / precision of five"
    columns = ["query", "queries", "captioned", *METHODS, "images with the label"]
    write_report(arguments, rounds, "labels", title, table(columns, rows), packages=["numpy"])
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--images", default=SCORED, help="shards of captioned images (*.tar)")
    options.add_argument("--size", type=int, default=1_000, help="images (default 1,000)")
    run(options, referee=referee, quick=QUICK, units=UNITS, rounds=1)
