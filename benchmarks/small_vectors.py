"""Smaller vectors: recall of the exact ranking, retrieval and memory by form of the vectors.

    python benchmarks/small_vectors.py
    python benchmarks/small_vectors.py --quick

The images of the validation split of Flickr8k are the collection, and one caption of each image is
a query; round N takes caption N. Further vectors fill the collection up to a size. They are drawn
from a normal distribution with the mean and covariance of the images' vectors, and normalized.
"recall of float32" is the mean fraction of the ten nearest whole vectors that are among the ten
nearest of a form. "R@10" is the fraction of captions whose image is among the first ten.

A form is a vector encoding of a collection. Its hits are those of `Collection.search` with an exact
index: ranked by the inner product of the query and the decoded vectors; of binary vectors, among
the nearest by Hamming distance. The PCA basis is that of 2,000 vectors of the collection. With
`+ float`, the first 100 are ranked again by their whole vectors, as by `--rescore-by`.
"""

import argparse

import numpy as np
from options import run
from sample_data import HELP, VAL, caption_of, located
from side_by_side import Figures, Rounds, figure, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.search.milvus.ann import depth_of
from coca.search.query.rerank import DEPTH
from coca.search.records import WHOLE
from coca.search.vector_codec import VectorCodec, fit_codec
from coca.search.vector_encoding import VectorEncoding

K, BLOCK = 10, 50
CONTESTANTS = {
    "float32": WHOLE,
    "first 128": VectorEncoding(dimensions=128),
    "first 64": VectorEncoding(dimensions=64),
    "PCA 128": VectorEncoding(dimensions=128, projection="pca"),
    "PCA 64": VectorEncoding(dimensions=64, projection="pca"),
    "int8": VectorEncoding(precision="int8"),
    "PCA 128, int8": VectorEncoding(dimensions=128, projection="pca", precision="int8"),
    "binary": VectorEncoding(precision="binary"),
    "PCA 256, binary": VectorEncoding(projection="pca", precision="binary"),
    "PCA 128, binary": VectorEncoding(dimensions=128, projection="pca", precision="binary"),
    "binary + float": VectorEncoding(precision="binary"),
    "PCA 256, binary + float": VectorEncoding(projection="pca", precision="binary"),
}

QUICK = {"sizes": [1_000, 20_000], "queries": 100, "rounds": 1}
UNITS = {
    "bytes": "bytes",
    "recall *": "fraction of the ten nearest",
    "R@10 *": "fraction",
    "mb *": "MB",
}


def hits(codec: VectorCodec, queries: np.ndarray, collection: np.ndarray, count: int) -> np.ndarray:
    """Return the rows that a search of the encoded collection ranks first."""
    decoded = np.concatenate(
        [codec.decode(codec.encode(part)) for part in np.array_split(collection, 20)]
    )
    if codec.exact_scores or codec.oversampling == 1:
        return best(queries, decoded, count)
    signs = codec.decode(codec.encode(queries))
    nearest = best(signs, decoded, codec.oversampling * depth_of(count))
    return rescored(nearest, queries, decoded)[:, :count]


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
    figures: dict[str, Figures] = {}
    for name, encoding in CONTESTANTS.items():
        codec = fit_codec(
            encoding,
            images.shape[1],
            lambda count: np.random.default_rng(seed).permutation(collection)[:count],
        )
        if name.endswith(" + float"):
            rows = rescored(hits(codec, texts, collection, DEPTH), texts, collection)[:, :K]
        else:
            rows = hits(codec, texts, collection, K)
        overlap = [len(set(a) & set(b)) / K for a, b in zip(rows, exact, strict=True)]
        figures[name] = {
            f"recall {size}": float(np.mean(overlap)),
            f"R@10 {size}": float((rows == own).any(axis=1).mean()),
            f"mb {size}": size * codec.vector_bytes / 1e6,
            "bytes": codec.vector_bytes,
        }
    return figures


def referee(arguments: argparse.Namespace) -> Rounds:
    arguments.data = located(arguments.data)
    predictor = coca.load(arguments.model, device="cpu", prepack=False)
    source = open_source(ShardsConfig(path=arguments.data))
    samples = [source.read(row) for row in range(len(source))]
    images = predictor.embed_images([sample.image for sample in samples])
    rounds = Rounds()
    for number in range(arguments.rounds):
        chosen = samples[: arguments.queries]
        texts = predictor.embed_texts([caption_of(sample, number) for sample in chosen])
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
        row = [name, f"{figure(runs, 'bytes').median:.0f}"]
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
    parser.add_argument("--data", default=VAL, help=HELP)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000], help="rows")
    parser.add_argument("--queries", type=int, default=300, help="captions a round")
    run(parser, referee=referee, quick=QUICK, units=UNITS)


if __name__ == "__main__":
    main()
