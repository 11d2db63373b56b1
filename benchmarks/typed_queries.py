"""Typed queries over captioned images at any size: the saved copy, Milvus Lite, and the command.

    python benchmarks/typed_queries.py --records 100000 --captions captions.txt
    python benchmarks/typed_queries.py --records 1000000 --work runs/typed --rounds 1

Captions are lines of a file, by default names of emoji; from the last line on, a caption is half of
two lines. The vector of a caption is that of its lines by the model, the vector of its image has a
cosine of about .3 with it. The collection is written once, calibrated and copied to disk as by
`coca index`, and `--work` keeps it for later runs. Each part is measured in a process of its own.

Queries are parts of captions. Times are processor times of all threads, since other programs may
run, with the wall-clock time in brackets.
"""

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from options import run
from side_by_side import (
    Figures,
    Rounds,
    disk_mb,
    emit,
    figure,
    in_turn,
    own_seconds,
    peak_bytes,
    resident_mb,
    table,
    write_report,
)

from coca.runtime.text_embedder import TextEmbedder
from coca.search.milvus.collection import Collection
from coca.search.milvus.rows import HIT_COLUMNS
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.engine import SearchEngine
from coca.search.query.milvus_search import MilvusSearch
from coca.search.query.query_terms import Term
from coca.search.query.saved_copy import find_copy
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.workflows.collections.calibrate import calibrate
from coca.workflows.collections.collection_model import load_model, open_search

MODEL, NAME, K = "everyday", "pictures", 10
EMBEDDED, BLOCK_ROWS = 10_000, 10_000
"""Lines whose vectors the model computes, and records that are made at a time."""
BUILD = {
    "write": "write all records to Milvus Lite, and flush",
    "read": "read the copy from Milvus Lite, and write it to disk",
    "calibrate": "calibrate",
}
COPY = {
    "model": "start of the model, without torch",
    "open": "open the copy",
    "first": "first typed query after it",
    "typed": "**typed query, model included**",
    "query": "of it: the model",
    "ranked": "of it: ranking of ten hits",
    "dense": "by image alone, model included",
    "min_score": "typed query, `min_score` without a hit",
    "filter_first": "typed query, first with a filter that keeps 10 %, which opens Milvus",
    "filter": "typed query, the same filter again",
}
LITE = {
    "words": "read the words of captions",
    "default": "typed query, the default",
    "dense": "by image alone",
    "min_score": "typed query, `min_score` without a hit",
    "collection": "`Collection.search`, by vector",
    "pymilvus": "pymilvus's `search`, by vector, with the same settings",
}
WRITE = {
    "upsert": "write one record",
    "first": "first typed query after it",
    "next": "next typed query",
    "save": "write the copy again",
}
COMMAND = {"command": "`coca search 'red car'`"}
PARTS = {"copy": COPY, "lite": LITE, "write": WRITE, "command": COMMAND}
TITLES = {
    "copy": "The copy on disk, as `coca search` and `coca serve` open it",
    "lite": "Milvus Lite without a copy",
    "write": "A record that is written while the copy is open",
    "command": "The command as a whole",
}
QUICK = {"records": 2_000, "rounds": 1}
UNITS = {"* cpu": "processor ms", "* wall": "ms", "* mb": "MB", "* s": "processor s"}


def captions_of(path: str, count: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield captions, each with the two lines that it consists of, which may be the same."""
    lines = lines_of(path)
    chosen = random.Random(0)
    for row in range(count):
        if row < len(lines):
            yield lines[row], (row, row)
        else:
            a, b = (chosen.randrange(len(lines)) for _ in range(2))
            first, second = lines[a].split(), lines[b].split()
            half = [*first[: len(first) // 2], *second[len(second) // 2 :]]
            yield " ".join(half), (a, b)


def lines_of(path: str) -> list[str]:
    """Read the lines of a file of captions, or the names of emoji."""
    if path:
        found = Path(path).read_text(encoding="utf-8").splitlines()
    else:
        import emoji

        names = (about["en"] for about in emoji.EMOJI_DATA.values() if about["status"] == 2)
        found = [name.strip(":").replace("_", " ") for name in names if "skin_tone" not in name]
    return [line for line in found if line.strip()][:EMBEDDED]


def queries_of(path: str, count: int) -> list[str]:
    """Draw parts of captions, of two to five words."""
    chosen, lines = random.Random(1), lines_of(path)
    found: list[str] = []
    while len(found) < count:
        words = chosen.choice(lines).split()
        start = chosen.randrange(max(len(words) - 2, 1))
        found.append(" ".join(words[start : start + chosen.randint(2, 5)]))
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def records_of(path: str, count: int, embedder: TextEmbedder) -> Iterator[Record]:
    """Make the records of a collection."""
    of_lines = embedder.embed_texts(lines_of(path)[:count])
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((300, of_lines.shape[1]))
    numbers = np.random.default_rng(3).permutation(count)
    captions = captions_of(path, count)
    for start in range(0, count, BLOCK_ROWS):
        size = min(BLOCK_ROWS, count - start)
        texts, lines = zip(*(next(captions) for _ in range(size)), strict=True)
        a, b = np.array(lines).T
        text_vectors = unit(of_lines[a] + of_lines[b])
        noise = rng.standard_normal((size, of_lines.shape[1]))
        images = unit(0.6 * centers[rng.integers(300, size=size)] + noise)
        images = unit(images + 0.3 * text_vectors)
        for place, row in enumerate(range(start, start + size)):
            yield Record(
                id=f"{row:08}",
                path=f"{row}.jpg",
                caption=texts[place],
                width=int(numbers[row]),
                vector=images[place],
                text_vector=text_vectors[place],
            )


class Clock:
    """Stopwatch of processor time and wall-clock time, ms."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure one step."""
        spent, start = own_seconds(), time.perf_counter()
        yield
        self.figures[f"{name} wall"] = 1e3 * (time.perf_counter() - start)
        self.figures[f"{name} cpu"] = 1e3 * (own_seconds() - spent)

    def repeated(self, name: str, step: Callable[[str], object], queries: Sequence[str]) -> None:
        """Measure the medians of a step over queries; the first one warms up."""
        step(queries[-1])
        spent, taken = [], []
        for query in queries:
            used, start = time.process_time(), time.perf_counter()
            step(query)
            taken.append(1e3 * (time.perf_counter() - start))
            spent.append(1e3 * (time.process_time() - used))
        self.figures[f"{name} wall"] = statistics.median(taken)
        self.figures[f"{name} cpu"] = statistics.median(spent)


def model() -> TextEmbedder:
    return TextEmbedder(MODEL, lambda: load_model(MODEL))


def build(arguments: argparse.Namespace, uri: str) -> Figures:
    """Write the collection, and what `coca index` writes with it."""
    clock, embedder = Clock(), model()
    with Collection.open(
        uri,
        NAME,
        embed_dim=embedder.embed_dim,
        fingerprint=embedder.fingerprint,
        model=MODEL,
        create=True,
    ) as collection:
        with clock.timed("write"):
            collection.upsert(records_of(arguments.captions, arguments.records, embedder))
            collection.flush()
        clock.figures["write mb"] = peak_bytes() / 1e6
    with Collection.open(uri, NAME) as collection:
        with clock.timed("read"):
            copy = CollectionCopy(collection)
        with clock.timed("calibrate"):
            calibrate(collection, embedder, searched=copy)
    clock.figures["peak mb"] = peak_bytes() / 1e6
    clock.figures["collection disk mb"] = disk_mb(Path(uri))
    clock.figures["copy disk mb"] = sum(disk_mb(path) for path in Path(uri).rglob("copy"))
    return clock.figures


def measure_copy(arguments: argparse.Namespace, uri: str, queries: list[str]) -> Figures:
    clock, bare = Clock(), resident_mb()
    with clock.timed("model"):
        embedder = model()
        embedder.embed_texts([queries[-1]])
    before = resident_mb()
    with clock.timed("open"):
        assert find_copy(uri, NAME) is not None, "the copy is that of the collection"
    with open_search(uri, collection=NAME, model=embedder) as engine:
        copy = engine.collection
        assert isinstance(copy, CollectionCopy)
        with clock.timed("first"):
            engine.search(queries[-1])
        vectors = {query: engine.query([Term(text=query)]) for query in queries}
        clock.repeated("typed", engine.search, queries)
        clock.repeated("query", lambda query: engine.query([Term(text=query)]), queries)
        clock.repeated(
            "ranked",
            lambda query: copy.search_ranked(vectors[query], query, Ranking(), SearchOptions()),
            queries,
        )
        clock.repeated("dense", lambda query: engine.search(query, hybrid=False), queries)
        clock.repeated("min_score", lambda query: engine.search(query, min_score=0.99), queries)
        resident = resident_mb()
        clock.figures |= {"copy mb": resident - before, "process mb": resident}
        clock.figures["model mb"] = before - bare
        filter = f"width < {arguments.records // 10}"
        with clock.timed("filter_first"):
            engine.search(queries[-1], filter=filter)
        clock.repeated("filter", lambda query: engine.search(query, filter=filter), queries)
    return clock.figures


def measure_lite(arguments: argparse.Namespace, uri: str, queries: list[str]) -> Figures:
    clock, embedder = Clock(), model()
    with Collection.open(uri, NAME) as collection:
        # As a server is searched: candidates by Milvus, and words in memory.
        engine = SearchEngine(embedder, MilvusSearch(collection))
        with clock.timed("words"):
            engine.read_ahead()
        vectors = {query: engine.query([Term(text=query)]) for query in queries}
        few = queries[:10]
        clock.repeated("default", engine.search, few)
        clock.repeated("dense", lambda query: engine.search(query, hybrid=False), few)
        clock.repeated("min_score", lambda query: engine.search(query, min_score=0.99), few)
        clock.repeated("collection", lambda query: collection.search(vectors[query], K), few)
        params = collection.index_type.search_params(K, 1.0)
        clock.repeated(
            "pymilvus",
            lambda query: collection._connection.client.search(
                NAME,
                data=list(vectors[query]),
                anns_field="vector",
                limit=K,
                output_fields=list(HIT_COLUMNS),
                search_params={"metric_type": "IP", "params": params},
                consistency_level="Bounded",
            ),
            few,
        )
        clock.figures["process mb"] = resident_mb()
    return clock.figures


def measure_write(arguments: argparse.Namespace, uri: str, queries: list[str]) -> Figures:
    clock, embedder = Clock(), model()
    with open_search(uri, collection=NAME, model=embedder) as engine:
        copy = engine.collection
        assert isinstance(copy, CollectionCopy)
        engine.search(queries[-1])
        record = copy.get(["00000001"])["00000001"]
        with clock.timed("upsert"):
            copy.in_milvus().upsert([record])
        with clock.timed("first"):
            engine.search(queries[0])
        with clock.timed("next"):
            engine.search(queries[1])
        # Later rounds need a current copy.
        with clock.timed("save"):
            copy.save()
    return clock.figures


def measure_command(arguments: argparse.Namespace, uri: str, queries: list[str]) -> Figures:
    clock = Clock()
    command = [sys.executable, "-m", "coca", "search", "red car", "--uri", uri, "--json"]
    for _ in range(2):  # the first reads files from the disk
        with clock.timed("command"):
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    clock.figures["peak mb"] = peak * (1 if sys.platform == "darwin" else 1024) / 1e6
    return clock.figures


def contestant(arguments: argparse.Namespace) -> None:
    name, uri = arguments.contestant, arguments.uri
    if name == "build":
        emit(build(arguments, uri))
        return
    queries = queries_of(arguments.captions, 40)
    measures = {
        "copy": measure_copy,
        "lite": measure_lite,
        "write": measure_write,
        "command": measure_command,
    }
    emit(measures[name](arguments, uri, queries))


def referee(arguments: argparse.Namespace) -> Rounds:
    work = Path(arguments.work or tempfile.mkdtemp(prefix="coca-typed-"))
    work.mkdir(parents=True, exist_ok=True)
    uri = str(work / f"typed-{arguments.records}.db")
    costs = work / f"typed-{arguments.records}.json"
    shared = [
        *(f"--records={arguments.records}", f"--captions={arguments.captions}", f"--uri={uri}"),
    ]
    try:
        if not costs.exists():
            shutil.rmtree(uri, ignore_errors=True)
            (built,) = in_turn({"build": [*shared, "--contestant=build"]}, rounds=1)["build"]
            costs.write_text(json.dumps(built))
        rounds = in_turn(
            {name: [*shared, f"--contestant={name}"] for name in arguments.only.split(",")},
            rounds=arguments.rounds,
        )
        built = json.loads(costs.read_text())
    finally:
        if not arguments.work:
            shutil.rmtree(work)
    source = f"lines of `{Path(arguments.captions).name}`" if arguments.captions else "emoji names"
    sections = [
        f"{arguments.records:,} records with captions and caption vectors, model `{MODEL}`; "
        f"captions: {source} and halves of two of them. 40 queries (10 on Milvus Lite); medians of "
        "the queries, then of the rounds with their range. In brackets wall-clock time.",
        "## Building\n\nOnce, as by `coca index`. Peak memory: "
        f"{built['write mb']:.0f} MB until all is written, {built['peak mb']:.0f} MB in all. On "
        f"disk: {built['collection disk mb']:.0f} MB, of which the copy "
        f"{built['copy disk mb']:.0f} MB.",
        table(
            ["", "processor s", "wall s"],
            [
                [title, *(f"{built[f'{name} {what}'] / 1e3:.1f}" for what in ("cpu", "wall"))]
                for name, title in BUILD.items()
            ],
        ),
    ]
    for part, runs in rounds.items():
        rows = [
            [title, figure(runs, f"{name} cpu").shown(1), figure(runs, f"{name} wall").shown(1)]
            for name, title in PARTS[part].items()
        ]
        memory = {
            "copy": "Resident memory: {0[copy mb]} MB for the copy, mapped files included, after "
            "these searches and before the filter; {0[process mb]} MB for the process.",
            "lite": "Resident memory of the process: {0[process mb]} MB.",
            "command": "Peak memory: {0[peak mb]} MB.",
            "write": "",
        }[part]
        named = {name: figure(runs, name).shown(0) for name in runs[0]}
        sections += [
            f"## {TITLES[part]}",
            table(["", "processor ms", "wall ms"], rows),
            *([memory.format(named)] if memory else []),
        ]
    rounds["build"] = [built]
    write_report(
        arguments,
        rounds,
        f"typed-queries_{arguments.records // 1000}k",
        f"Typed queries over {arguments.records:,} records",
        *sections,
        packages=["numpy", "numkong", "onnxruntime", "pymilvus", "milvus-lite"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--records", type=int, default=10_000, help="records (default 10,000)")
    options.add_argument("--captions", default="", help="text file with one caption a line")
    options.add_argument("--only", default=",".join(PARTS), help="parts")
    options.add_argument("--work", default="", help="folder that keeps the collection")
    options.add_argument("--uri", help=argparse.SUPPRESS)
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
