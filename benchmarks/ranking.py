"""The ranking of typed queries at five fractions of captioned images, next to simple rankings.

    python benchmarks/ranking.py --photos FOLDER

Images, captions and queries are embedded once, and kept as .npz files in `--cache`. Each set is
written to a SQLite file in which no image, 1, 10, 50 or 100 % of them have their caption, drawn
three times, and searched as `SearchEngine` does. Next to the ranking are the images alone, and the
words and caption vectors alone, in the same state. The weights are chosen on the 100 everyday
queries and on photos of Flickr8k's validation split, whose queries are other captions of the same
photos. All other sets are reported: their queries are in ranking_queries.yaml, and were written
before any result. `generated` are the photos of Flickr8k with captions by the model, which count.
Without `--photos` only the two sets of drawings are measured.

`family` are nouns over photos without captions; ten photos get a caption of a family album, such as
"Our old house": precision of the first five hits, by images alone and by the ranking.

Dimensions: Q queries, N records.
"""

import argparse
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from drawing_queries import match, read_answers
from options import run
from PIL import Image
from sample_data import SCORED, located
from side_by_side import Figures, Rounds, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.processing.class_words import CLASS_WORDS_FILE
from coca.search.query.background import spreads_of
from coca.search.query.query_terms import embed_queries
from coca.search.ranking import TypedQuery
from coca.search.records import Origin, Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.store import Collection
from coca.search.stores import open_collection

ANSWERS = yaml.safe_load(Path(__file__).with_name("ranking_queries.yaml").read_text("utf-8"))
FRACTIONS, SEEDS, DRAWS, DEPTH = (0.0, 0.01, 0.1, 0.5, 1.0), 3, 2_000, 10
"""Fractions of captioned images, drawn sets, draws of the paired bootstrap, hits of a query."""
FAMILY = [
    "Our old house",
    "Grandma with her knitting",
    "Christmas dinner 2014",
    "The kids at the lake",
    "Anna's birthday cake",
    "Tom and Lisa on the pier",
    "Dad fixing the roof",
    "First day at school",
    "Our trip to Rome",
    "Oma's 80th birthday",
]
NOUN_PHOTOS = range(5, 151)
"""Numbers of correct photos of a noun of `family`."""

QUICK = {"rounds": 1}
UNITS = {"*": "fraction"}


@dataclass(frozen=True)
class Texts:
    """Images, captions and queries of a set, before they are embedded."""

    images: Sequence[Any]
    captions: Sequence[str]
    queries: Sequence[str]
    relevant: np.ndarray
    """Whether an image is correct for a query, Q N."""


def drawings(arguments: argparse.Namespace, answers: Mapping[str, Sequence[str]]) -> Texts:
    """Drawings of OpenMoji with their names."""
    samples = list(_samples(located(arguments.drawings)))
    queries, relevant = match(answers, samples)
    images = [sample.image for sample in samples]
    return Texts(images, [sample.captions[0] for sample in samples], queries, relevant)


def fresh(arguments: argparse.Namespace) -> Texts:
    """The same drawings, with other queries."""
    codes = {str(query): str(some).split() for query, some in ANSWERS["drawings"].items()}
    return drawings(arguments, codes)


def flickr(arguments: argparse.Namespace) -> Texts:
    """Photos with their first caption; a query is the second or third one."""
    samples = list(_samples(f"{arguments.photos}/flickr8k_224/val-*.tar"))
    captions = [sample.captions for sample in samples]
    queries = [some[row] for row in (1, 2) for some in captions]
    own = np.tile(np.eye(len(samples), dtype=bool), (2, 1))
    return Texts([sample.image for sample in samples], [some[0] for some in captions], queries, own)


def rooms(arguments: argparse.Namespace) -> Texts:
    """Indoor photos; a caption is three of the answers to questions about the photo."""
    rows = list(_rows(arguments, "daquar_train.zip"))
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row["image"], []).extend(map(str.strip, row["answer"].split(",")))
    captions = [
        ", ".join([one.replace("_", " ") for one in dict.fromkeys(some) if not one.isdigit()][:3])
        for some in answers.values()
    ]
    relevant = [
        [not set(some).isdisjoint(right) for some in answers.values()]
        for right in ANSWERS["rooms"].values()
    ]
    images = _images(arguments, "daquar_train.zip", list(answers))
    return Texts(images, captions, list(ANSWERS["rooms"]), np.array(relevant))


def exercises(arguments: argparse.Namespace) -> Texts:
    """Photos of gym exercises with their names."""
    rows = list(_rows(arguments, "exercises_128.zip"))
    names = [row["name"] for row in rows]
    relevant = [
        [any(part in name.lower() for part in right) for name in names]
        for right in ANSWERS["exercises"].values()
    ]
    images = _images(arguments, "exercises_128.zip", [row["images"][0] for row in rows])
    return Texts(images, names, list(ANSWERS["exercises"]), np.array(relevant))


def classes(arguments: argparse.Namespace) -> Texts:
    """Photos without captions; a query is the name of a class."""
    rows = list(_rows(arguments, "photos_cc_by_600.zip"))
    queries = list(dict.fromkeys(row["class_names"][0] for row in rows))
    relevant = np.array([[query in row["class_names"] for row in rows] for query in queries])
    images = _images(arguments, "photos_cc_by_600.zip", [row["image"] for row in rows])
    return Texts(images, [""] * len(rows), queries, relevant)


def generated(arguments: argparse.Namespace) -> Texts:
    """Photos of Flickr8k with a caption by the model."""
    texts = flickr(arguments)
    captions = [one.text for one in loaded(arguments.model).caption(texts.images)]
    return Texts(texts.images, captions, texts.queries, texts.relevant)


SETS: dict[str, Callable[[argparse.Namespace], Texts]] = {
    "everyday": lambda arguments: drawings(arguments, read_answers()),
    "flickr": flickr,
    "fresh": fresh,
    "rooms": rooms,
    "exercises": exercises,
    "generated": generated,
    "classes": classes,
}
TUNED = ("everyday", "flickr")
DRAWN = ("everyday", "fresh")


def sets_of(arguments: argparse.Namespace) -> list[str]:
    """Return the captioned sets whose images are there."""
    captioned = [name for name in SETS if name != "classes"]
    return [name for name in captioned if arguments.photos or name in DRAWN]


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of the images."""
    parser.add_argument("--drawings", default=SCORED, help="shards of OpenMoji; default: from pip")
    described = "folder of flickr8k_224, daquar_train.zip, exercises_128.zip, photos_cc_by_600.zip"
    parser.add_argument("--photos", default="", help=described)


def _samples(pattern: str) -> Iterator[Any]:
    source = open_source(ShardsConfig(path=pattern))
    return (source.read(row) for row in range(len(source)))


def _rows(arguments: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(Path(arguments.photos) / name) as file:
        return map(json.loads, file.read("meta.jsonl").splitlines())


def _images(arguments: argparse.Namespace, name: str, members: Sequence[str]) -> list[Image.Image]:
    with zipfile.ZipFile(Path(arguments.photos) / name) as file:
        return [Image.open(io.BytesIO(file.read(one))).convert("RGB") for one in members]


def embedded(name: str, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Embed a set, or read its vectors from the cache."""
    path = Path(arguments.cache) / f"{name}.npz"
    if path.is_file():
        with np.load(path) as file:
            return dict(file)
    texts, predictor = SETS[name](arguments), loaded(arguments.model)
    # Two sets have the same drawings, and two the same photos.
    same = {"fresh": "everyday", "generated": "flickr"}.get(name)
    images = embedded(same, arguments)["images"] if same else predictor.embed_images(texts.images)
    found = {
        "images": images,
        "captions": np.array(texts.captions),
        "caption vectors": predictor.embed_texts(texts.captions),
        "texts": np.array(texts.queries),
        "queries": embed_queries(predictor.embed_texts, texts.queries),
        "relevant": texts.relevant,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


@cache
def loaded(model: str) -> Any:
    return coca.load(model, device="cpu")


def records_of(
    data: Mapping[str, np.ndarray], has_caption: np.ndarray, *, generated: bool = False
) -> Iterator[Record]:
    """Build the records of a set; some have their caption."""
    columns = (data["captions"].tolist(), data["images"], data["caption vectors"], has_caption)
    for row, (caption, vector, text_vector, captioned) in enumerate(zip(*columns, strict=True)):
        yield Record(
            id=f"{row:05}",
            path=f"{row}",
            caption=caption if captioned else "",
            vector=vector,
            text_vector=text_vector if captioned else None,
            origin=Origin(captioned=generated),
        )


METHODS: dict[str, Callable[[Collection, TypedQuery, Ranking], list[str]]] = {
    "images": lambda records, query, _: _nearest(records, query, "image"),
    "words": lambda records, query, _: [id for id, _ in records.words(query.text, DEPTH)],
    "caption vectors": lambda records, query, _: _nearest(records, query, "text"),
    "ranking": lambda records, query, ranking: [
        hit.id for hit in records.ranked(query, ranking, SearchOptions(limit=DEPTH))
    ],
}


def _nearest(records: Collection, query: TypedQuery, on: Any) -> list[str]:
    options = SearchOptions(limit=DEPTH, on=on)
    return [hit.id for hit in records.nearest(query.vector[np.newaxis], options)[0]]


def ranks_of(
    data: Mapping[str, np.ndarray], model: Any, fraction: float, seed: int, *, generated: bool
) -> dict[str, np.ndarray]:
    """Return the rank of the first correct hit of each query by each method; 0 below `DEPTH`."""
    has_caption = np.random.default_rng(seed).random(len(data["images"])) < fraction
    ranking = Ranking(captions="all" if generated else "given")
    found: dict[str, list[int]] = {method: [] for method in METHODS}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_collection(
            f"{folder}/x.db", create=True, embed_dim=data["images"].shape[1], fingerprint="model"
        ) as collection,
    ):
        collection.upsert(records_of(data, has_caption, generated=generated))
        columns = (data["texts"].tolist(), data["queries"], data["relevant"])
        for text, vector, relevant in zip(*columns, strict=True):
            query = TypedQuery(vector, text, spreads_of(model, vector))
            for method, search in METHODS.items():
                right = [bool(relevant[int(id)]) for id in search(collection, query, ranking)]
                found[method].append(right.index(True) + 1 if any(right) else 0)
    return {method: np.array(ranks) for method, ranks in found.items()}


def reciprocal(ranks: np.ndarray) -> np.ndarray:
    return np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0)


def gain(ranks: np.ndarray, others: np.ndarray) -> str:
    """Format the difference of MRR@10 of the same queries, with its 95 % interval."""
    gains = (reciprocal(ranks) - reciprocal(others)).reshape(-1, SEEDS).mean(axis=1)
    drawn = np.random.default_rng(0).integers(0, len(gains), (DRAWS, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975])
    return f"{gains.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def noun_photos(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return the nouns of the model's table, and which of the 600 photos show them."""
    model = loaded(arguments.model)
    labels = np.array([row["imagenet_class"] for row in _rows(arguments, "photos_cc_by_600.zip")])
    common = set(Path(model.source, "caption_words.txt").read_text("utf-8").split())
    nouns = json.loads(Path(model.source, CLASS_WORDS_FILE).read_text("utf-8"))
    return {
        words[0]: np.isin(labels, noun["classes"])
        for noun in nouns
        if (words := [word for word in noun["words"] if word in common])
        and np.isin(labels, noun["classes"]).sum() in NOUN_PHOTOS
    }


def family_precision(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Compute the precision of five by images alone and by the ranking, with `FAMILY` captions."""
    data, model = embedded("classes", arguments), loaded(arguments.model)
    queries, photos = noun_photos(arguments), len(data["images"])
    vectors = embed_queries(model.embed_texts, list(queries))
    captions, written = np.full(photos, "", object), model.embed_texts(FAMILY)
    text_vectors = np.zeros_like(data["images"])
    found: dict[str, list[float]] = {"images": [], "ranking": []}
    for seed in range(SEEDS):
        captions[:], chance = "", np.random.default_rng(seed)
        rows = chance.choice(photos, len(FAMILY), replace=False)
        captions[rows], text_vectors[rows] = FAMILY, written
        given = {"images": data["images"], "captions": captions, "caption vectors": text_vectors}
        with (
            tempfile.TemporaryDirectory() as folder,
            open_collection(
                f"{folder}/x.db", create=True, embed_dim=vectors.shape[1], fingerprint="model"
            ) as collection,
        ):
            collection.upsert(records_of(given, captions != ""))
            for (noun, right), vector in zip(queries.items(), vectors, strict=True):
                query = TypedQuery(vector, noun, spreads_of(model, vector))
                for method, precisions in found.items():
                    ids = METHODS[method](collection, query, Ranking())
                    precisions.append(float(np.mean([right[int(id)] for id in ids[:5]])))
    return found


def referee(arguments: argparse.Namespace) -> Rounds:
    figures: Figures = {}
    rows = []
    model = loaded(arguments.model)
    for name in sets_of(arguments):
        data, generated = embedded(name, arguments), name == "generated"
        for fraction in FRACTIONS:
            seeds = [
                ranks_of(data, model, fraction, seed, generated=generated)
                for seed in range(SEEDS if 0 < fraction < 1 else 1)
            ] * (1 if 0 < fraction < 1 else SEEDS)
            found = {method: np.stack([one[method] for one in seeds], axis=1) for method in METHODS}
            title = f"{name}{', to choose' if name in TUNED else ''}"
            difference = gain(found["ranking"], found["images"])
            rows.append([title, f"{fraction:.0%}", *map(_shown, found.values()), difference])
            for method, ranks in found.items():
                figures[f"{name}, {fraction:.0%}, {method}, R@10"] = float((ranks > 0).mean())
                figures[f"{name}, {fraction:.0%}, {method}, MRR"] = float(reciprocal(ranks).mean())
    sections = [table(["set", "captioned", *METHODS, "ranking - images, MRR"], rows)]
    if arguments.photos:
        precisions = {name: float(np.mean(of)) for name, of in family_precision(arguments).items()}
        figures |= {f"family, {method}, P@5": value for method, value in precisions.items()}
        shown = [f"{value:.3f}" for value in precisions.values()]
        sections += [
            "Nouns over 600 photos, ten with a caption of a family album: P@5.",
            table([*precisions], [shown]),
        ]
    rounds = Rounds({"ranking": [figures]})
    write_report(
        arguments,
        rounds,
        "ranking",
        "The ranking of typed queries, by the fraction of captioned images",
        "Recall@10 / MRR@10: the first correct image is among ten hits, and the mean of its "
        "reciprocal rank. Each other ranking is in the same state. The last column is the "
        "difference of MRR@10 with its 95 % interval (paired bootstrap over queries).",
        *sections,
        packages=["torch", "numpy"],
    )
    return rounds


def _shown(ranks: np.ndarray) -> str:
    return f"{(ranks > 0).mean():.3f} / {reciprocal(ranks).mean():.3f}"


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    add_data(options)
    options.add_argument("--cache", default="runs/bench/ranking", help="folder of the vectors")
    run(options, referee=referee, quick=QUICK, units=UNITS, rounds=1)
