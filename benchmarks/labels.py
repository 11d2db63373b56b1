"""Typed queries for a tag, person, city, album or file: is the first hit right?

    python benchmarks/labels.py --images 'photos/*.tar'

Images get random labels, so that nothing that they show helps. A query is one label; half of the
images have a given caption, or none has one. Precision is that of the first five hits, or of as
many as there are.
"""

import argparse
import random
import tempfile
from collections import defaultdict
from typing import Any

import numpy as np
from options import run
from sample_data import SCORED, located
from side_by_side import Figures, Rounds, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.search.query.query_terms import embed_queries
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.stores import open_collection

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
RANKINGS = {
    "images and captions": Ranking(words_weight=0, text_weight=0),
    "with BM25": Ranking(text_weight=0),
    "with BM25 and labels": Ranking(),
}
QUICK = {"size": 300, "rounds": 1}
UNITS = {"*": "fraction"}


def labelled(size: int, captions: list[str]) -> tuple[list[dict[str, Any]], dict[str, set[str]]]:
    """Draw the fields of records, and the correct ids of each query."""
    chance = random.Random(0)
    answers: dict[str, set[str]] = defaultdict(set)
    records = []
    for row in range(size):
        some = [
            chance.choice(labels) if chance.random() < 0.3 else ""
            for labels in (TAGS, PEOPLE, CITIES, ALBUMS)
        ]
        tag, person, city, album = some
        name = f"IMG_{1_000 + row}.JPG"
        file = [name.split(".")[0] if row % 2 else name] if row % (size // FILES) == 1 else []
        for label in filter(None, (*some, *file)):
            answers[label].add(str(row))
        folder = f"/home/anna/Pictures/{album or chance.choice(OTHERS)}"
        tags = (tag, "edited") if tag else ("edited",)
        metadata = {"people": [person], "city": city, "camera": "NIKON D90"}
        caption = captions[row] if chance.random() < 0.5 else ""
        fields = {"tags": tags, "metadata": metadata, "album": folder, "caption": caption}
        records.append({"id": str(row), "path": f"{folder}/{name}", **fields})
    return records, answers


def referee(arguments: argparse.Namespace) -> Rounds:
    model = coca.load(arguments.model)
    source = open_source(ShardsConfig(path=located(arguments.images)))
    samples = [source.read(row) for row in range(min(arguments.size, len(source)))]
    vectors = model.embed_images([sample.image for sample in samples])
    captions = [sample.captions[0] for sample in samples]
    texts = model.embed_texts(captions)
    fields, answers = labelled(len(samples), captions)
    queries = embed_queries(model.embed_texts, list(answers))
    figures: Figures = {}
    rows = []
    for captioned in (False, True):
        records = []
        for row, own in enumerate(fields):
            caption = own["caption"] if captioned else ""
            vector = texts[row] if caption else None
            own = own | {"caption": caption, "vector": vectors[row], "text_vector": vector}
            records.append(Record(**own))
        with (
            tempfile.TemporaryDirectory() as folder,
            open_collection(
                f"{folder}/x.db", create=True, embed_dim=vectors.shape[1], fingerprint="model"
            ) as collection,
        ):
            collection.upsert(records)
            for name, ranking in RANKINGS.items():
                first, precision = [], []
                for (text, right), query in zip(answers.items(), queries, strict=True):
                    hits = collection.ranked(query, text, ranking, SearchOptions(limit=5))
                    correct = [hit.id in right for hit in hits]
                    first.append(correct[0])
                    precision.append(np.mean(correct[: min(5, len(right))]))
                title = f"{name}, {'half' if captioned else 'none'} captioned"
                figures[f"{title}, first"] = float(np.mean(first))
                figures[f"{title}, precision"] = float(np.mean(precision))
                rows.append([title, f"{sum(first)} of {len(first)}", f"{np.mean(precision):.2f}"])
    rounds = Rounds({"labels": [figures]})
    title = f"Queries for labels of {len(samples):,} images"
    columns = ["ranking", "first hit right", "precision of five"]
    write_report(arguments, rounds, "labels", title, table(columns, rows), packages=["numpy"])
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--images", default=SCORED, help="shards of captioned images (*.tar)")
    options.add_argument("--size", type=int, default=1_000, help="images (default 1,000)")
    run(options, referee=referee, quick=QUICK, units=UNITS, rounds=1)
