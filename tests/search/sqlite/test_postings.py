import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.records import Record
from coca.search.search_options import CaptionChoice
from coca.search.sqlite import postings
from coca.search.stores import open_collection
from coca.search.words import (
    FIELD_WEIGHTS,
    FIELDS,
    NAMED,
    TAGGED,
    TEXT,
    TEXT_FIELDS,
    field_terms,
    query_terms,
    terms_of,
    text_match,
)

WORDS = [
    "red",
    "cars",
    "car",
    "sky",
    "dogs",
    "the",
    "to",
    "猫",
    "naïve",
    "😀",
    "im",
    "Kinder",
    "Kind",
]
TEXT_OF_WORDS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


def with_labels(texts: dict[str, str]) -> dict[str, str]:
    """Add the fields of whole labels, which repeat people and tags."""
    return texts | {
        field: texts[name] for field, name in ((NAMED, "people"), (TAGGED, "tags")) if name in texts
    }


TEXTS = st.dictionaries(st.sampled_from(FIELDS[:-2]), TEXT_OF_WORDS, max_size=4).map(with_labels)
ROWS = st.sampled_from([0, 1, 2, 5, 4_095, 4_096, 4_100, 9_000])
WRITES = st.lists(st.dictionaries(ROWS, TEXTS | st.none(), max_size=6), max_size=6)
QUERY = st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=5).map(" ".join)
CAPTIONS: st.SearchStrategy[CaptionChoice] = st.sampled_from(["all", "given"])

Texts = Mapping[str, str]
Rows = dict[int, Texts]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = empty()
    yield connection
    connection.close()


def empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    postings.create(connection, "x")
    return connection


def written(connection: sqlite3.Connection, rows: Rows, write: Mapping[int, Texts | None]) -> int:
    """Write to the table and to the rows of the oracle; return the change of the length."""
    old = {row: rows[row] for row in write if row in rows}
    new = {row: texts for row, texts in write.items() if texts is not None}
    for row in write:
        rows.pop(row, None)
    rows |= new
    return postings.write(connection, "x", old, new)


def length(texts: Texts) -> float:
    return sum(FIELD_WEIGHTS.get(field, 0) * len(terms_of(text)) for field, text in texts.items())


def by_hand(rows: Rows, query: str, captions: CaptionChoice) -> dict[int, float]:
    """Compute BM25F with dictionaries."""
    weights = {**FIELD_WEIGHTS, "generated": 0.5 * (captions == "all")}
    mean = sum(map(length, rows.values())) / max(len(rows), 1)
    tfs: dict[int, Counter[str]] = {}
    for row, texts in rows.items():
        tfs[row] = Counter()
        for field, text in texts.items():
            for term in terms_of(text):
                mark = "model:" * (field == "generated")
                tfs[row][mark + term] += weights.get(field, 0)  # type: ignore[assignment]
    scores: Counter[int] = Counter()
    terms = {term for word in query_terms(query) for term in word}
    for term in terms | {f"model:{term}" for term in terms}:
        frequency = sum(tf[term] > 0 for tf in tfs.values())
        idf = math.log(1 + (len(rows) - frequency + 0.5) / (frequency + 0.5))
        for row, tf in tfs.items():
            if tf[term]:
                norm = 1.2 * (1 - 0.75 + 0.75 * length(rows[row]) / mean)
                scores[row] += idf * tf[term] / (tf[term] + norm)  # type: ignore[assignment]
    return dict(sorted(scores.items()))


def scores(
    connection: sqlite3.Connection,
    rows: Rows,
    query: str,
    captions: CaptionChoice = "all",
) -> dict[int, float]:
    found, bm25 = postings.scores(
        connection,
        "x",
        query_terms(query),
        records=len(rows),
        mean_length=2 * sum(map(length, rows.values())) / max(len(rows), 1),
        captions=captions,
    )
    return dict(zip(found.tolist(), bm25.tolist(), strict=True))


@given(WRITES, QUERY, CAPTIONS)
def test_scores_and_matches_are_those_of_the_formula_after_any_writes(
    writes: list[dict[int, Texts | None]], query: str, captions: CaptionChoice
) -> None:
    connection, rows, total = empty(), Rows(), 0
    for write in writes:
        total += written(connection, rows, write)
    assert total == 2 * sum(map(length, rows.values()))
    expected = by_hand(rows, query, captions)
    assert scores(connection, rows, query, captions) == pytest.approx(expected, rel=1e-5)
    words = query_terms(query)
    parts = {row: text_match(words, matched(rows[row])) for row in sorted(rows)}
    found, match = postings.text_matches(connection, "x", words)
    assert dict(zip(found.tolist(), match.tolist(), strict=True)) == pytest.approx(
        {row: part for row, part in parts.items() if part}
    )


def matched(texts: Texts) -> list[str]:
    plain = [term for name in TEXT_FIELDS for term in terms_of(texts.get(name, ""))]
    labels = field_terms({name: texts.get(name, "") for name in (NAMED, TAGGED)})
    return [*plain, *labels[NAMED], *labels[TAGGED]]


@given(WRITES)
def test_a_table_depends_on_its_rows_and_not_on_the_order_of_writes(
    writes: list[dict[int, Texts | None]],
) -> None:
    connection, rows = empty(), Rows()
    for write in writes:
        written(connection, rows, write)
    at_once = empty()
    postings.write(at_once, "x", {}, rows)
    read = "SELECT * FROM x_words ORDER BY block, term"
    assert connection.execute(read).fetchall() == at_once.execute(read).fetchall()


@given(st.lists(TEXT_OF_WORDS))
def test_scores_of_one_field_are_those_of_bm25s_with_the_method_of_lucene(some: list[str]) -> None:
    texts = [*some, "sky"]
    ranker = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    ranker.index([terms_of(text) for text in texts], show_progress=False)
    connection, rows = empty(), Rows()
    written(connection, rows, {row: {"caption": text} for row, text in enumerate(texts)})
    for query in ("red", "car", "red dogs", "猫 sky 😀", "Kinder"):
        terms = [term for word in query_terms(query) for term in word]
        known = [term for term in terms if term in ranker.vocab_dict]
        expected = ranker.get_scores(known) if known else np.zeros(len(texts))
        found = scores(connection, rows, query)
        found_scores = [found.get(row, 0.0) for row in range(len(texts))]
        assert found_scores == pytest.approx(expected.tolist(), rel=1e-5)


def test_very_long_texts_are_found(connection: sqlite3.Connection) -> None:
    rows = Rows()
    written(connection, rows, {0: {"caption": "dog " * 100_000}, 1: {"caption": "cat"}})
    assert scores(connection, rows, "dog").keys() == {0}
    assert written(connection, rows, {0: None, 1: None}) < 0
    assert connection.execute("SELECT count(*) FROM x_words WHERE block >= 0").fetchone() == (0,)


def test_the_mark_of_texts_inside_images_cannot_be_typed(connection: sqlite3.Connection) -> None:
    rows = Rows()
    written(connection, rows, {0: {TEXT: "exit"}, 1: {"tags": "car"}})
    assert scores(connection, rows, "text:exit exit") == {}
    matches = postings.text_matches(connection, "x", query_terms("text:exit"))
    assert matches[1].tolist() == [0.5**4]


def test_words_are_written_again_when_the_analysis_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = np.array([1, 0], np.float32)
    found = [Record(id=id, path=f"{id}.jpg", tags=(id,), vector=vector) for id in ("cat", "dogs")]
    with open_collection(
        str(tmp_path / "x.db"), create=True, embed_dim=2, fingerprint="x"
    ) as collection:
        with monkeypatch.context() as former:
            former.setattr(postings, "analyzer", lambda: "former")
            former.setattr(postings, "field_terms", lambda texts: {"tags": texts["tags"].split()})
            collection.upsert(found)
            assert [id for id, _ in collection.words("dogs", 2)] == []
        collection.upsert([Record(id="cow", path="cow.jpg", vector=vector)])
        assert [id for id, _ in collection.words("dogs", 2)] == ["dogs"]
        collection.delete(["dogs", "cow"])
        scores = dict(collection.words("cat dog", 2))
    with open_collection(
        str(tmp_path / "y.db"), create=True, embed_dim=2, fingerprint="x"
    ) as alone:
        alone.upsert(found[:1])
        assert scores == dict(alone.words("cat", 2))
