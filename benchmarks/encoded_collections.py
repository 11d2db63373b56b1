"""Encoded collections in Milvus: recall, time, memory and disk space of smaller vectors.

    python benchmarks/encoded_collections.py
    python benchmarks/encoded_collections.py --of lite-float32,lite-pca128 --rows 20000

The vectors are those of `small_vectors.py`, which simulates the encodings: the images of the
shards, and drawn vectors that fill the collection. Here collections of Milvus
Lite and of the server of the tests contain them, with an exact index (`FLAT` or `BIN_FLAT`). Each
contestant fills a store of its own in another process, opens it, and searches the captions one by
one; round N takes caption N. `binary + float` is the same collection of signs; its first 100 hits
are ranked by whole vectors from a folder of Milvus Lite, as by `--rescore-by`.

Memory is the resident set size of what has the filled collection, opened and searched, less that
with an empty one: of this process for Lite, and of a server that was started again. Disk space
is that of the folder of Lite, or of the object storage of the server.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from options import run
from sample_data import HELP, VAL, caption_of, located
from side_by_side import (
    Figures,
    Rounds,
    disk_mb,
    emit,
    figure,
    in_turn,
    own_seconds,
    resident_mb,
    table,
    write_report,
)
from small_vectors import K, best, filled
from vector_stores import milvus_server

from coca.search.index_params.vector_index import parse_index
from coca.search.milvus.collection import Collection
from coca.search.milvus.schema import CollectionSettings
from coca.search.query.rerank import RescoredIndex
from coca.search.records import WHOLE, Record
from coca.search.vector_encoding import VectorEncoding

PCA_128 = VectorEncoding(dimensions=128, projection="pca")
BINARY = VectorEncoding(precision="binary")
CONTESTANTS = {
    "lite-float32": WHOLE,
    "lite-pca128": PCA_128,
    "server-float32": WHOLE,
    "server-pca128": PCA_128,
    "server-binary": BINARY,
}
RESCORED = "server-binary + float"
NAMES = {"lite": "Milvus Lite", "server": "Milvus server 2.3.5"}
FORMS = {"float32": "float32, whole", "pca128": "128 by PCA", "binary": "binary"}
SETTLE_S = 5.0
"""A server that has just started still allocates."""

QUICK = {"rows": 4_000, "of": "lite-float32,lite-pca128", "queries": 100, "rounds": 1}
UNITS = {
    "recall": "fraction of the ten nearest",
    "R@10": "fraction",
    "ms": "processor ms",
    "memory_mb": "MB",
    "disk_mb": "MB",
}


def opened(uri: str, size: int, **options: Any) -> Collection:
    return Collection.open(uri, "bench", embed_dim=size, fingerprint="bench", **options)


def fill(uri: str, vectors: np.ndarray, encoding: VectorEncoding) -> None:
    """Write all vectors, and flush them."""
    exact = parse_index("BIN_FLAT" if encoding.precision == "binary" else "FLAT")
    settings = CollectionSettings(index=exact, encoding=encoding)
    random = np.random.default_rng(0)
    with opened(
        uri,
        vectors.shape[1],
        create=True,
        settings=settings,
        basis=lambda count: random.permutation(vectors)[:count],
    ) as collection:
        collection.upsert(
            Record(id=f"{row:08}", path=f"{row}.jpg", vector=vector)
            for row, vector in enumerate(vectors)
        )
        collection.flush()


def filled_elsewhere(uri: str, vectors: np.ndarray, encoding: VectorEncoding) -> None:
    """Fill a collection in another process, whose memory is not counted."""
    process = multiprocessing.get_context("spawn").Process(
        target=fill, args=(uri, vectors, encoding)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"filling {uri} ended with {process.exitcode}")


def searched(
    collection: Any, queries: Sequence[np.ndarray], vectors: np.ndarray
) -> Iterator[tuple[float, float, float]]:
    """Yield recall, R@10 and milliseconds for the captions of each round."""
    collection.search(queries[0][:1], K)
    for texts in queries:
        exact = best(texts, vectors, K)
        start = own_seconds()
        found = [
            [int(hit.id) for hit in collection.search(text[np.newaxis], K)[0]] for text in texts
        ]
        spent = 1e3 * (own_seconds() - start) / len(texts)
        overlap = [len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)]
        own = [row in hits for row, hits in enumerate(found)]
        yield float(np.mean(overlap)), float(np.mean(own)), spent


def named(name: str, rounds: Iterator[tuple[float, float, float]]) -> Figures:
    return {
        f"{name}: {what} {number}": value
        for number, values in enumerate(rounds)
        for what, value in zip(("recall", "R@10", "ms"), values, strict=True)
    }


@contextmanager
def filled_store(
    name: str, folder: Path, vectors: np.ndarray, costs: Figures
) -> Iterator[Collection]:
    """Yield the filled collection, opened again; put its memory and disk space into `costs`."""
    size, encoding = vectors.shape[1], CONTESTANTS[name]
    if name.startswith("lite"):
        (folder / "full").mkdir()
        uri = str(folder / "full" / "bench.db")
        filled_elsewhere(uri, vectors, encoding)
        # The libraries of Milvus are loaded before.
        (folder / "empty").mkdir()
        with opened(str(folder / "empty" / "bench.db"), size, create=True) as empty:
            empty.search(vectors[:1], K)
        before = resident_mb()
        with opened(uri, size) as collection:
            collection.search(vectors[:K], K)
            costs[f"{name}: memory_mb"] = resident_mb() - before
            costs[f"{name}: disk_mb"] = disk_mb(folder / "full")
            yield collection
        return
    with milvus_server(folder / "empty") as server:
        time.sleep(SETTLE_S)
        before = resident_mb(server._process.pid)
    with milvus_server(folder / "full") as server:
        filled_elsewhere(server.uri, vectors, encoding)
    with milvus_server(folder / "full") as server, opened(server.uri, size) as collection:
        collection.search(vectors[:K], K)
        time.sleep(SETTLE_S)
        costs[f"{name}: memory_mb"] = resident_mb(server._process.pid) - before
        costs[f"{name}: disk_mb"] = disk_mb(folder / "full" / "storage")
        yield collection


def contestant(arguments: argparse.Namespace) -> None:
    name = arguments.contestant
    stored = np.load(arguments.vectors)
    vectors, queries = stored["vectors"], list(stored["queries"])
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="coca-encoded-") as passing, ExitStack() as stack:
        folder = Path(passing)
        collection = stack.enter_context(filled_store(name, folder, vectors, figures))
        figures |= named(name, searched(collection, queries, vectors))
        if name == "server-binary":
            (folder / "whole").mkdir()
            whole_uri = str(folder / "whole" / "bench.db")
            filled_elsewhere(whole_uri, vectors, WHOLE)
            whole = stack.enter_context(opened(whole_uri, vectors.shape[1]))
            both = RescoredIndex(collection, whole)
            figures |= named(RESCORED, searched(both, queries, vectors))
            figures[f"{RESCORED}: memory_mb"] = figures[f"{name}: memory_mb"]
            figures[f"{RESCORED}: disk_mb"] = figures[f"{name}: disk_mb"] + disk_mb(
                folder / "whole"
            )
    emit(figures)


def embedded(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Embed the images and, for each round, one caption of each; fill up to `--rows` vectors."""
    import coca
    from coca.data.sources.factory import open_source
    from coca.data.sources.tar.shards import ShardsConfig

    arguments.data = located(arguments.data)
    predictor = coca.load(arguments.model, device="cpu", prepack=False)
    source = open_source(ShardsConfig(path=arguments.data))
    samples = [source.read(row) for row in range(len(source))]
    images = predictor.embed_images([sample.image for sample in samples])
    chosen = samples[: arguments.queries]
    queries = [
        predictor.embed_texts([caption_of(sample, number) for sample in chosen])
        for number in range(arguments.rounds)
    ]
    return filled(images, max(arguments.rows, len(images)), 0), np.stack(queries)


def referee(arguments: argparse.Namespace) -> Rounds:
    vectors, queries = embedded(arguments)
    with tempfile.TemporaryDirectory(prefix="coca-vectors-") as folder:
        path = f"{folder}/vectors.npz"
        np.savez(path, vectors=vectors, queries=queries)
        names = arguments.of.split(",")
        words = {name: [f"--vectors={path}", f"--contestant={name}"] for name in names}
        measured = in_turn(words, rounds=1)
    rounds = Rounds()
    rounds.skipped = measured.skipped
    for (figures,) in measured.values():
        for name in dict.fromkeys(key.partition(": ")[0] for key in figures):
            own = {
                key.partition(": ")[2]: value
                for key, value in figures.items()
                if key.startswith(f"{name}: ")
            }
            storage = {what: own[what] for what in ("memory_mb", "disk_mb")}
            rounds[name] = [
                {what: own[f"{what} {number}"] for what in ("recall", "R@10", "ms")} | storage
                for number in range(arguments.rounds)
            ]
    rows = []
    for name, runs in rounds.items():
        milvus, form = name.split("-", 1)
        kind, _, rescored = form.partition(" + ")
        label = FORMS[kind] + (", the first 100 ranked by whole vectors" if rescored else "")
        shown = [figure(runs, what).shown(3) for what in ("recall", "R@10")]
        shown.append(figure(runs, "ms").shown(1))
        shown += [f"{figure(runs, what).median:.0f}" for what in ("memory_mb", "disk_mb")]
        rows.append([NAMES[milvus], label, *shown])
    columns = ["Milvus", "form", "recall of float32", "R@10", "processor ms", "memory, MB"]
    about = (
        f"Model `{arguments.model}`, {len(vectors):,} vectors of {vectors.shape[1]} numbers, "
        f"{queries.shape[1]:,} captions a round, one at a time. Medians with the range of the "
        "rounds; memory and disk space of one store."
    )
    write_report(
        arguments,
        rounds,
        "encoded-collections",
        "Encoded collections in Milvus",
        about,
        table([*columns, "disk, MB"], rows),
        packages=["pymilvus", "milvus-lite", "numpy"],
    )
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="everyday", help="name or folder of the model")
    parser.add_argument("--data", default=VAL, help=HELP)
    parser.add_argument("--rows", type=int, default=100_000, help="vectors (default 100,000)")
    parser.add_argument("--queries", type=int, default=300, help="captions a round")
    parser.add_argument("--of", default=",".join(CONTESTANTS), help="collections")
    parser.add_argument("--vectors", help="used by the script itself")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)


if __name__ == "__main__":
    main()
