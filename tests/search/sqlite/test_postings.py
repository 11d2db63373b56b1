import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.search_options import CaptionChoice
from coca.search.sqlite import postings
from coca.search.sqlite.codes import BLOCK_ROWS
from coca.search.words import (
    FIELD_WEIGHTS,
    FIELDS,
    NAMED,
    SEEN,
    TAGGED,
    TEXT,
    TEXT_FIELDS,
    analyzed,
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
SEEN_NOUNS = st.lists(
    st.tuples(st.sampled_from([*WORDS, "Kinder der Kind"]), st.integers(1, 10)), max_size=3
).map(lambda pairs: "\n".join(f"{noun} {tenths}" for noun, tenths in pairs))


def with_labels(texts: dict[str, str]) -> dict[str, str]:
    """Add the fields of whole labels, which repeat people and tags."""
    return texts | {
        field: texts[name] for field, name in ((NAMED, "people"), (TAGGED, "tags")) if name in texts
    }


TEXTS = st.builds(
    lambda texts, seen: texts | {SEEN: seen},
    st.dictionaries(st.sampled_from(FIELDS[:-3]), TEXT_OF_WORDS, max_size=4).map(with_labels),
    SEEN_NOUNS,
)
ROWS = st.sampled_from([0, 1, 2, 5, 4_095, 4_096, 4_100, 9_000])
SIZE = 9_001
WRITES = st.lists(st.dictionaries(ROWS, TEXTS | st.none(), max_size=6), max_size=6)
QUERY = st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=5).map(" ".join)
CAPTIONS: st.SearchStrategy[CaptionChoice] = st.sampled_from(["all", "given"])

Texts = Mapping[str, str]
Rows = dict[int, Texts]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with empty() as connection:
        yield connection


@contextmanager
def empty() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        postings.create(connection, "x")
        yield connection


def written(connection: sqlite3.Connection, rows: Rows, write: Mapping[int, Texts | None]) -> None:
    """Write to the blocks and to the rows of the oracle."""
    for block in {row // BLOCK_ROWS for row in write}:
        changed = {row: texts or {} for row, texts in write.items() if row // BLOCK_ROWS == block}
        words = {row: analyzed(texts) for row, texts in changed.items()}
        postings.write(connection, "x", block, words, stale=changed.keys() & rows.keys())
    for row, texts in write.items():
        rows.pop(row, None)
        if texts is not None:
            rows[row] = texts


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
    recent: postings.RecentWords = postings.NONE_RECENT,
) -> dict[int, float]:
    found, bm25 = postings.Postings(connection, "x", SIZE, recent).scores(
        query_terms(query),
        records=len(rows),
        mean_length=2 * sum(map(length, rows.values())) / max(len(rows), 1),
        captions=captions,
    )
    return dict(zip(found.tolist(), bm25.tolist(), strict=True))


@given(WRITES, WRITES, QUERY, CAPTIONS)
def test_scores_and_matches_are_those_of_the_formula_after_any_writes(
    writes: list[dict[int, Texts | None]],
    later: list[dict[int, Texts | None]],
    query: str,
    captions: CaptionChoice,
) -> None:
    rows, recent = Rows(), postings.RecentWords()
    with empty() as connection:
        for write in writes:
            written(connection, rows, write)
        for write in later:
            # Rows that are not in their blocks yet.
            words = {row: analyzed(texts or {}) for row, texts in write.items()}
            recent = recent.replaced(words, [])
            rows |= {row: texts for row, texts in write.items() if texts is not None}
            for row in [row for row, texts in write.items() if texts is None]:
                rows.pop(row, None)
        assert all(analyzed(texts).length == 2 * length(texts) for texts in rows.values())
        expected = by_hand(rows, query, captions)
        assert scores(connection, rows, query, captions, recent) == pytest.approx(
            expected, rel=1e-5
        )
        words_of_query = query_terms(query)
        parts = {row: text_match(words_of_query, matched(rows[row])) for row in sorted(rows)}
        found, match = postings.Postings(connection, "x", SIZE, recent).text_matches(words_of_query)
        assert dict(zip(found.tolist(), match.tolist(), strict=True)) == pytest.approx(
            {row: part for row, part in parts.items() if part}
        )


def matched(texts: Texts) -> list[str]:
    plain = [term for name in TEXT_FIELDS for term in terms_of(texts.get(name, ""))]
    labels = field_terms({name: texts.get(name, "") for name in (NAMED, TAGGED, SEEN)})
    seen = [f"{term} {tenths}" for term, tenths in Counter(labels[SEEN]).items()]
    return [*plain, *labels[NAMED], *labels[TAGGED], *seen]


@given(WRITES)
def test_a_table_depends_on_its_rows_and_not_on_the_order_of_writes(
    writes: list[dict[int, Texts | None]],
) -> None:
    rows = Rows()
    with empty() as connection, empty() as at_once:
        for write in writes:
            written(connection, rows, write)
        written(at_once, Rows(), rows)
        for block in {row // BLOCK_ROWS for write in writes for row in write}:
            postings.write(at_once, "x", block, {})
        read = "SELECT * FROM x_words ORDER BY block, term"
        assert connection.execute(read).fetchall() == at_once.execute(read).fetchall()


@given(st.lists(TEXT_OF_WORDS))
def test_scores_of_one_field_are_those_of_bm25s_with_the_method_of_lucene(some: list[str]) -> None:
    texts = [*some, "sky"]
    ranker = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    ranker.index([terms_of(text) for text in texts], show_progress=False)
    rows = Rows()
    with empty() as connection:
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
    written(connection, rows, {0: None, 1: None})
    assert connection.execute("SELECT count(*) FROM x_words WHERE term > ''").fetchone() == (0,)


def test_the_mark_of_texts_inside_images_cannot_be_typed(connection: sqlite3.Connection) -> None:
    rows = Rows()
    written(connection, rows, {0: {TEXT: "exit"}, 1: {"tags": "car"}})
    assert scores(connection, rows, "text:exit exit") == {}
    matches = postings.Postings(connection, "x", SIZE).text_matches(query_terms("text:exit"))
    assert matches[1].tolist() == [0.5**4]
