"""Smaller vectors: recall of the exact ranking, retrieval and memory by form of the vectors.

    python benchmarks/small_vectors.py
    python benchmarks/small_vectors.py --quick

The images of the validation split of Flickr8k are the collection, and one caption of each image is
a query; round N takes caption N. Further vectors fill the collection up to a size. They are drawn
from a normal distribution with the mean and covariance of the images' vectors, and normalized.
"recall of float32" is the mean fraction of the ten nearest whole vectors that are among the ten
nearest of a form. "R@10" is the fraction of captions whose image is among the first ten.

The forms: `first D` keeps the first D numbers; `PCA D` keeps D components of the collection's
vectors (without centering); both are normalized again. `int8` rounds all numbers by one scale,
`binary` keeps their signs. With `+ float`, the first 100 are ranked again by their whole vectors.
"""

import argparse
from collections.abc import Callable

import numpy as np
from options import run
from photos import require
from side_by_side import Figures, Rounds, figure, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.shards import ShardsConfig
from coca.runtime.short_vectors import shortened

DATA = "../shared/data/flickr8k_224/val-*.tar"
K, RESCORED, BLOCK = 10, 100, 50
CONTESTANTS = {
    "float32": 32,
    "first 128": 16,
    "first 64": 8,
    "PCA 128": 16,
    "PCA 64": 8,
    "int8": 8,
    "binary": 1,
    "binary + float": 1,
}
"""Each form with its bits per number of a whole vector."""

QUICK = {"sizes": [1_000, 20_000], "queries": 100, "rounds": 1}
UNITS = {"recall *": "fraction of the ten nearest", "R@10 *": "fraction", "mb *": "MB"}

Scores = Callable[[np.ndarray, np.ndarray], np.ndarray]


def forms(collection: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return each form as a function of vectors; its inner products rank the collection."""
    _, _, components = np.linalg.svd(collection[:: max(1, len(collection) // 2_000)])
    scale = 127 / np.quantile(np.abs(collection), 0.9999)
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "float32": lambda vectors: vectors,
        "int8": lambda vectors: np.clip(np.rint(vectors * scale), -127, 127).astype(np.float32),
        "binary": lambda vectors: np.where(vectors > 0, 1, -1).astype(np.float32),
    }
    for size in (128, 64):
        found[f"first {size}"] = lambda vectors, size=size: shortened(vectors, size)
        found[f"PCA {size}"] = lambda vectors, size=size: shortened(vectors @ components.T, size)
    return found


def filled(images: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Add drawn vectors to those of images, up to a number of rows."""
    random = np.random.default_rng(seed)
    mean, covariance = images.mean(axis=0), np.cov(images, rowvar=False)
    values, basis = np.linalg.eigh(covariance)
    spread = (basis * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    drawn = random.standard_normal((rows - len(images), images.shape[1]), dtype=np.float32)
    drawn = drawn @ spread.T + mean
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.concatenate([images, drawn]).astype(np.float32)


def best(queries: np.ndarray, collection: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the nearest vectors of each query, nearest first."""
    found = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ collection.T
        rows = np.argpartition(-scores, count, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, rows, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(rows, order, axis=1))
    return np.concatenate(found)


def rescored(rows: np.ndarray, queries: np.ndarray, collection: np.ndarray) -> np.ndarray:
    """Rank the first rows of each query again by whole vectors."""
    scores = np.einsum("qe,qke->qk", queries, collection[rows])
    return np.take_along_axis(rows, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def measure(images: np.ndarray, texts: np.ndarray, size: int, seed: int) -> dict[str, Figures]:
    """Measure all forms on a collection of one size."""
    collection = filled(images, size, seed)
    own = np.arange(len(texts))[:, np.newaxis]
    exact = best(texts, collection, K)
    ways = forms(collection)
    figures: dict[str, Figures] = {}
    for name, bits in CONTESTANTS.items():
        change = ways[name.removesuffix(" + float")]
        if name.endswith(" + float"):
            first = best(change(texts), change(collection), RESCORED)
            rows = rescored(first, texts, collection)[:, :K]
        else:
            rows = best(change(texts), change(collection), K)
        overlap = [len(set(a) & set(b)) / K for a, b in zip(rows, exact, strict=True)]
        figures[name] = {
            f"recall {size}": float(np.mean(overlap)),
            f"R@10 {size}": float((rows == own).any(axis=1).mean()),
            f"mb {size}": size * images.shape[1] * bits / 8 / 1e6,
        }
    return figures


def referee(arguments: argparse.Namespace) -> Rounds:
    require(arguments.data)
    predictor = coca.load(arguments.model, device="cpu", prepack=False)
    source = open_source(ShardsConfig(path=arguments.data))
    samples = [source.read(row) for row in range(len(source))]
    images = predictor.embed_images([sample.image for sample in samples])
    rounds = Rounds()
    for number in range(arguments.rounds):
        chosen = samples[: arguments.queries]
        texts = predictor.embed_texts([sample.captions[number] for sample in chosen])
        together: dict[str, Figures] = {name: {} for name in CONTESTANTS}
        for size in arguments.sizes:
            for name, found in measure(images, texts, max(size, len(images)), number).items():
                together[name].update(found)
        for name, found in together.items():
            rounds.setdefault(name, []).append(found)
    columns = ["form", "bytes a vector"]
    for size in arguments.sizes:
        columns += [f"{size:,}: recall of float32", "R@10", "MB"]
    rows = []
    for name, runs in rounds.items():
        row = [name, f"{images.shape[1] * CONTESTANTS[name] // 8}"]
        for size in arguments.sizes:
            row += [figure(runs, f"{label} {size}").shown(3) for label in ("recall", "R@10")]
            row.append(f"{figure(runs, f'mb {size}').median:.1f}")
        rows.append(row)
    about = (
        f"Model `{arguments.model}`, vectors of {images.shape[1]} numbers; "
        f"{len(images):,} images of Flickr8k, {arguments.queries:,} captions a round. "
        "Medians with the range of the rounds. `binary + float` keeps the whole vectors as well, "
        "on disk or in memory."
    )
    write_report(arguments, rounds, "small-vectors", "Smaller vectors", about, table(columns, rows))
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="everyday", help="name or folder of the model")
    parser.add_argument("--data", default=DATA, help="shards of captioned images")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000], help="rows")
    parser.add_argument("--queries", type=int, default=300, help="captions a round")
    run(parser, referee=referee, quick=QUICK, units=UNITS)


if __name__ == "__main__":
    main()
