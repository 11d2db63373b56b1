"""BM25 of all captions that share a word with a query: our postings against full-text engines.

    python benchmarks/words.py --captions captions.txt --size 1000000
    python benchmarks/words.py --quick

Captions are halves of two lines of a file, drawn with a seed. A query returns row and score of each
caption with one of its words. Times are processor times, as other programs may run.
"""

import argparse
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from options import run
from sample_data import caption_file
from side_by_side import Figures, Rounds, emit, figure, in_turn, table, write_report

from coca.search.sqlite import postings
from coca.search.sqlite.codes import BLOCK_ROWS
from coca.search.words import analyzed, query_terms

QUERIES = {
    1: ("man", "surfing", "kayak"),
    3: ("two dogs running", "man red shirt", "girl pink dress"),
    8: (
        "two young men playing football on green grass field",
        "black dog runs through snow woman child street people",
    ),
}
NAMES = {
    "words": "`postings` in SQLite",
    "sqlite": "SQLite FTS5, `porter unicode61`",
    "tantivy": "tantivy, `en_stem`",
    "bm25s": "bm25s, English stop words and stems",
}
COLUMNS = ("build_s", "mb", "1_words_ms", "3_words_ms", "8_words_ms", "write_ms")
QUICK = {"size": 20_000, "rounds": 1}
UNITS = {"*_ms": "ms of processor time", "build_s": "s of processor time", "mb": "MB on disk"}

Search = Callable[[str], object]
Write = Callable[[int, str], object]


def words(captions: list[str], folder: Path) -> tuple[Search, Write]:
    database = sqlite3.connect(folder / "words.db", isolation_level=None)
    postings.create(database, "t")
    database.execute("begin")
    length = 0
    for start in range(0, len(captions), BLOCK_ROWS):
        part = enumerate(captions[start : start + BLOCK_ROWS], start)
        block = {row: analyzed({"caption": caption}) for row, caption in part}
        postings.write(database, "t", start // BLOCK_ROWS, block)
        length += sum(words.length for words in block.values())
    database.execute("commit")
    size = len(captions)

    def write(row: int, text: str) -> None:
        # A fold of its block, which comes after 256 rows of a collection.
        words = {row: analyzed({"caption": text})}
        database.execute("begin")
        postings.write(database, "t", row // BLOCK_ROWS, words, stale=words)
        database.execute("commit")

    def search(query: str) -> object:
        found = postings.Postings(database, "t", size)
        return found.scores(query_terms(query), records=size, mean_length=length / size)

    return search, write


def sqlite(captions: list[str], folder: Path) -> tuple[Search, Write]:
    database = sqlite3.connect(folder / "words.db")
    options = "content='', contentless_delete=1, tokenize='porter unicode61'"
    database.execute(f"create virtual table t using fts5(caption, {options})")
    database.executemany("insert into t(rowid, caption) values (?, ?)", enumerate(captions))
    database.commit()

    def write(row: int, text: str) -> None:
        database.execute("insert or replace into t(rowid, caption) values (?, ?)", (row, text))
        database.commit()

    question = "select rowid, bm25(t) from t where t match ?"
    return lambda q: database.execute(question, (" OR ".join(q.split()),)).fetchall(), write


def tantivy(captions: list[str], folder: Path) -> tuple[Search, Write]:
    import tantivy as peer

    schema = peer.SchemaBuilder().add_integer_field("row", fast=True, indexed=True)
    schema = schema.add_text_field("caption", tokenizer_name="en_stem", index_option="freq")
    index = peer.Index(schema.build(), path=str(folder))

    def add(pairs: list[tuple[int, str]]) -> None:
        writer = index.writer(100_000_000, 1)
        for row, text in pairs:
            writer.delete_documents_by_term("row", row)
            writer.add_document(peer.Document(row=row, caption=text))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()

    add(list(enumerate(captions)))
    limit = len(captions)
    return (
        lambda q: index.searcher().search(index.parse_query(q, ["caption"]), limit=limit).hits,
        lambda row, text: add([(row, text)]),
    )


def bm25s(captions: list[str], folder: Path) -> tuple[Search, Write]:
    import bm25s as peer
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def build(texts: list[str]) -> Any:
        ranker = peer.BM25(method="lucene", k1=1.2, b=0.75)
        tokens = peer.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
        ranker.index(tokens, show_progress=False)
        return ranker

    ranker = build(captions)
    ranker.save(str(folder), show_progress=False)

    def search(query: str) -> object:
        (terms,) = peer.tokenize(
            [query], stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
        )
        known = [term for term in terms if term in ranker.vocab_dict]
        return ranker.get_scores(known) if known else ()

    return search, lambda row, text: build([*captions[:row], text, *captions[row + 1 :]])


def contestant(arguments: argparse.Namespace) -> None:
    lines = Path(arguments.captions).read_text(encoding="utf-8").splitlines()
    random.seed(0)
    pairs = [
        (random.choice(lines).split(), random.choice(lines).split()) for _ in range(arguments.size)
    ]
    captions = [" ".join(a[: len(a) // 2] + b[len(b) // 2 :]) for a, b in pairs]
    with tempfile.TemporaryDirectory() as name:
        begun = time.process_time()
        search, write = globals()[arguments.contestant](captions, Path(name))
        found: Figures = {"build_s": time.process_time() - begun}
        found["mb"] = sum(file.stat().st_size for file in Path(name).rglob("*")) / 1e6
        for count, queries in QUERIES.items():
            search(queries[0])
            begun = time.process_time()
            for query in queries:
                search(query)
            found[f"{count}_words_ms"] = (time.process_time() - begun) / len(queries) * 1e3
        begun = time.process_time()
        write(7, "a zebra on the grass")
        found["write_ms"] = (time.process_time() - begun) * 1e3
    emit(found)


def referee(arguments: argparse.Namespace) -> Rounds:
    captions = arguments.captions or caption_file()
    shared = [f"--captions={captions}", f"--size={arguments.size}"]
    runs = {name: [f"--contestant={name}", *shared] for name in NAMES}
    rounds = in_turn(runs, rounds=arguments.rounds)
    rows = [
        [NAMES[name], *(figure(own, column).shown(1) for column in COLUMNS)]
        for name, own in rounds.items()
    ]
    columns = ["", "build, s", "MB", "1 word, ms", "3 words", "8 words", "write, ms"]
    title = f"Words of {arguments.size:,} captions"
    write_report(arguments, rounds, f"words_{arguments.size}", title, table(columns, rows))
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    described = "text file with one caption a line; default: those of the drawings"
    parser.add_argument("--captions", default="", help=described)
    parser.add_argument("--size", type=int, default=50_000, help="captions (default 50,000)")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
