"""Rate of queries that match, of those with and without an answer, on calibrated collections.

    python benchmarks/matching.py --photos FOLDER

Each set of `ranking.py` is a collection in a SQLite file, calibrated as by `coca index`. A record
without a given caption has the one that the model generates. Queries are those of the set, 60
absent concepts, 100 texts of random letters, and for the set `words` common nouns that no caption
of a photo has. A query matches if one of its first ten hits does. The baseline, in brackets: one of
their captions has all words of the query. Without `--photos` only the drawings are measured. The
weights of the match score were chosen on the everyday queries, that of generated captions on
`words`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from options import run
from ranking import ANSWERS, SETS, UNCAPTIONED, add_data, embedded, loaded, sets_of
from side_by_side import Figures, Rounds, table, write_report

from coca.search.query.engine import SearchEngine
from coca.search.records import Origin, Record
from coca.search.stores import open_collection
from coca.search.words import query_terms, share, terms_of
from coca.workflows.collections.calibrate import calibrate

MAX_QUERIES = 400
QUICK = {"rounds": 1}
UNITS = {"* seconds": "s", "*": "fraction"}


class Matches(NamedTuple):
    """Whether a query matches by its match score, and by the words of captions alone."""

    score: bool
    words: bool


def measured(name: str, captioned: float, arguments: argparse.Namespace) -> Figures:
    """Count the matching queries of a set, of which a fraction of the records has a caption."""
    data, predictor = embedded(name, arguments), loaded(arguments.model)
    given = np.random.default_rng(0).random(len(data["images"])) < captioned
    generated = generated_captions(name, arguments) if captioned < 1 else data["captions"]
    with (
        tempfile.TemporaryDirectory() as folder,
        open_collection(
            str(Path(folder) / "set.db"),
            embed_dim=predictor.embed_dim,
            fingerprint=predictor.fingerprint,
            create=True,
        ) as collection,
    ):
        collection.upsert(
            Record(
                id=f"{row:05}",
                path=f"{row}.png",
                caption=str(data["captions"][row] if given[row] else generated[row]),
                origin=Origin(captioned=not given[row] and arguments.captions),
                vector=data["images"][row],
                text_vector=data["caption vectors"][row] if given[row] else None,
            )
            for row in range(len(given))
        )
        start = time.process_time()
        calibrate(collection, predictor)
        seconds = time.process_time() - start
        engine = SearchEngine(predictor, collection)

        def matches(text: str) -> Matches:
            hits = engine.search(text, k=10)
            terms = query_terms(text)
            words = any(share(terms, terms_of(hit.caption)) == 1 for hit in hits)
            return Matches(bool(hits[0].query_matches), words)

        queries = data["queries"].tolist()
        rows = range(0, len(queries), max(1, len(queries) // MAX_QUERIES))
        answered = [
            matches(queries[row])
            for row in rows
            if any(data["relevant"][row, int(hit.id)] for hit in engine.search(queries[row], k=5))
        ]
        missing = [row for row in rows if not data["relevant"][row].any()]
        nouns = [matches(queries[row]) for row in missing]
        absent = [matches(text) for text in ANSWERS["absent"]]
        letters = [matches(text) for text in random_texts()]
    counts: Figures = {"queries": len(rows) - len(missing), "calibration seconds": seconds}
    kinds = {"answered": answered, "absent": absent, "nouns": nouns, "letters": letters}
    for kind, verdicts in kinds.items():
        counts[kind] = len(verdicts)
        counts[f"{kind} by score"] = sum(verdict.score for verdict in verdicts)
        counts[f"{kind} by words"] = sum(verdict.words for verdict in verdicts)
    return counts


def generated_captions(name: str, arguments: argparse.Namespace) -> np.ndarray:
    """Generate the captions of a set, or read them from the cache; empty with `--no-captions`."""
    path = Path(arguments.cache) / f"{name}-generated.npy"
    if not arguments.captions:
        return np.full(len(embedded(name, arguments)["images"]), "")
    if not path.is_file():
        captions = loaded(arguments.model).caption((SETS | UNCAPTIONED)[name](arguments).images)
        np.save(path, [caption.text for caption in captions])
    return np.load(path)


def random_texts(count: int = 100) -> list[str]:
    """Draw texts of random letters, others than those of the calibration."""
    random = np.random.default_rng(7)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return [
        " ".join("".join(random.choice(letters, random.integers(3, 9))) for _ in range(words))
        for words in random.integers(1, 4, count)
    ]


def _cells(counts: Figures) -> Iterator[str]:
    """Describe how many queries of each kind match; in brackets by the words of captions alone."""
    for kind in ("answered", "absent", "nouns", "letters"):
        total, score, words = (counts[kind + by] for by in ("", " by score", " by words"))
        yield f"{score:.0f} ({words:.0f}) of {total:.0f}" if total else ""


def referee(arguments: argparse.Namespace) -> Rounds:
    sets = {(name, part) for name in sets_of(arguments) for part in (1.0, 0.5, 0.0)}
    sets |= {(name, 0.0) for name in UNCAPTIONED if arguments.photos}
    rounds = Rounds()
    rows = []
    for name, part in sorted(sets, key=lambda one: (one[0], -one[1])):
        title = f"{name}, {part:.0%} with a caption"
        own = measured(name, part, arguments)
        rounds[title] = [own]
        answered = f"{own['answered']:.0f} of {own['queries']:.0f}"
        rows.append([title, answered, *_cells(own), f"{own['calibration seconds']:.1f}"])
    columns = ["set", "answered in the top 5", "of these, match (by words of captions alone)"]
    columns += ["absent concepts that match", "absent nouns", "random letters"]
    columns += ["calibration, processor s"]
    write_report(
        arguments,
        rounds,
        "matching",
        "Queries that match, with and without an answer",
        table(columns, rows),
        packages=["torch", "numpy"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    add_data(options)
    options.add_argument(
        "--captions",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="generate the missing captions, as coca index does (default yes)",
    )
    options.add_argument("--cache", default="runs/bench/ranking", help="folder of the vectors")
    run(options, referee=referee, quick=QUICK, units=UNITS, rounds=1)
