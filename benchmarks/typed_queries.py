"""Typed queries over captioned images in a SQLite file of any size, writes to it, and the command.

    python benchmarks/typed_queries.py --records 100000 --captions captions.txt
    python benchmarks/typed_queries.py --records 1000000 --work runs/typed --rounds 1

Captions are lines of a file, by default names of emoji; from the last line on, a caption is half of
two lines. The vector of a caption is that of its lines by the model, the vector of its image has a
cosine of about .3 with it. The collection is written once, and `--work`
keeps it for later runs. Each part is measured in a process of its own.

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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from options import run
from side_by_side import (
    Figures,
    Rounds,
    emit,
    figure,
    in_turn,
    own_seconds,
    peak_bytes,
    resident_mb,
    table,
    write_report,
)

import coca
from coca.predict.text_embedder import TextEmbedder
from coca.search.query.background import spreads_of
from coca.search.query.query_terms import Term
from coca.search.ranking import TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.stores import open_collection
from coca.search.words import terms_of
from coca.workflows.collections.collection_model import open_search

MODEL, NAME, K = "everyday", "pictures", 10
EMBEDDED, BLOCK_ROWS = 10_000, 10_000
"""Lines whose vectors the model computes, and records that are made at a time."""
BUILD = {"write": "write all records"}
SEARCH = {
    "model": "start of the model, without torch",
    "open": "open the collection",
    "first": "first typed query after it",
    "typed": "**typed query, model included**",
    "common": "typed query of the most common words",
    "query": "of it: the model",
    "ranked": "of it: ranking of ten hits",
    "dense": "by image alone, model included",
    "min_score": "typed query, `min_score` without a hit",
    "filter_first": "typed query, first with a filter that keeps 10 %",
    "filter": "typed query, the same filter again",
}
WRITE = {
    "upsert": "write one record",
    "first": "first typed query after it",
    "next": "next typed query",
}
COMMAND = {"command": "`coca search 'red car'`"}
PARTS = {"search": SEARCH, "write": WRITE, "command": COMMAND}
TITLES = {
    "search": "Searches of a process, as of `coca serve`",
    "write": "A record that is written while the collection is open",
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


def common_words(path: str) -> str:
    """Return the three words that most captions have."""
    counts = Counter(term for line in lines_of(path) for term in set(terms_of(line)))
    return " ".join(term for term, _ in counts.most_common(3))


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
    return TextEmbedder(MODEL, lambda: coca.load(MODEL))


def build(arguments: argparse.Namespace, uri: str) -> Figures:
    """Write the collection."""
    clock, embedder = Clock(), model()
    with open_collection(
        uri,
        NAME,
        embed_dim=embedder.embed_dim,
        fingerprint=embedder.fingerprint,
        model=MODEL,
        create=True,
    ) as collection:
        with clock.timed("write"):
            collection.upsert(records_of(arguments.captions, arguments.records, embedder))
        clock.figures["write mb"] = peak_bytes() / 1e6
    clock.figures["peak mb"] = peak_bytes() / 1e6
    clock.figures["collection disk mb"] = Path(uri).stat().st_size / 1e6
    return clock.figures


def measure_search(arguments: argparse.Namespace, uri: str, queries: list[str]) -> Figures:
    clock, bare = Clock(), resident_mb()
    with clock.timed("model"):
        embedder = model()
        embedder.embed_texts([queries[-1]])
    before = resident_mb()
    with clock.timed("open"), open_collection(uri, NAME):
        pass
    with open_search(uri, collection=NAME, model=embedder) as engine:
        with clock.timed("first"):
            engine.search(queries[-1])
        vectors = {query: engine.query_vector([Term(text=query)]) for query in queries}
        ranked, ranking, page = engine.collection.ranked, Ranking(), SearchOptions()

        def typed(query: str) -> TypedQuery:
            return TypedQuery(vectors[query], query, spreads_of(embedder, vectors[query]))

        steps: dict[str, Callable[[str], object]] = {
            "typed": engine.search,
            "query": lambda query: engine.query_vector([Term(text=query)]),
            "ranked": lambda query: ranked(typed(query), ranking, page),
            "dense": lambda query: engine.search(query, hybrid=False),
            "min_score": lambda query: engine.search(query, min_score=0.99),
        }
        for name, step in steps.items():
            clock.repeated(name, step, queries)
        clock.repeated("common", engine.search, 10 * [common_words(arguments.captions)])
        resident = resident_mb()
        clock.figures |= {"collection mb": resident - before, "process mb": resident}
        clock.figures["model mb"] = before - bare
        filter = f"width < {arguments.records // 10}"
        with clock.timed("filter_first"):
            engine.search(queries[-1], filter=filter)
        clock.repeated("filter", lambda query: engine.search(query, filter=filter), queries)
    return clock.figures


def measure_write(arguments: argparse.Namespace, uri: str, queries: list[str]) -> Figures:
    clock, embedder = Clock(), model()
    with open_search(uri, collection=NAME, model=embedder) as engine:
        engine.search(queries[-1])
        (record,) = engine.collection.get(["00000001"]).values()
        with clock.timed("upsert"):
            engine.collection.upsert([record])
        with clock.timed("first"):
            engine.search(queries[0])
        with clock.timed("next"):
            engine.search(queries[1])
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
        "search": measure_search,
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
            for file in work.glob(f"{Path(uri).name}*"):
                file.unlink()
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
        f"captions: {source} and halves of two of them. 40 queries; medians of "
        "the queries, then of the rounds with their range. In brackets wall-clock time.",
        "## Building\n\nOnce, as by `coca index`. Peak memory: "
        f"{built['write mb']:.0f} MB until all is written, {built['peak mb']:.0f} MB in all. On "
        f"disk: {built['collection disk mb']:.0f} MB.",
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
            "search": "Resident memory: {0[collection mb]} MB for the collection, after these "
            "searches and before the filter; {0[process mb]} MB for the process.",
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
        packages=["numpy", "numkong", "onnxruntime"],
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
