"""Any combination of options finds in a SQLite file what a search in plain Python finds."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

import search_oracle as oracle
from coca.search.search_options import Ranking, SearchOptions
from coca.search.stores import open_store
from search_oracle import FILTERS, OPTIONS, RANKINGS, TEXTS, Filled
from store_writer import DIM

ROWS = 1_300
"""More than a block of a scan."""
EXAMPLES = 2 * settings().max_examples


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    uri = str(tmp_path_factory.mktemp("oracle") / "pictures.db")
    with open_store(uri, create=True) as store:
        yield oracle.fill(store.create("pictures", embed_dim=DIM, fingerprint="one"), ROWS)


@pytest.mark.slow
@given(OPTIONS, FILTERS, TEXTS)
@settings(max_examples=EXAMPLES)
def test_the_nearest_are_those_of_the_oracle(
    filled: Filled, options: dict[str, Any], filter: str, text: str
) -> None:
    oracle.check_nearest(filled, SearchOptions(**options, filter=filter), text)


@pytest.mark.slow
@given(OPTIONS, FILTERS, TEXTS, RANKINGS)
@settings(max_examples=EXAMPLES)
def test_the_ranking_is_that_of_the_oracle(
    filled: Filled, options: dict[str, Any], filter: str, text: str, weights: dict[str, Any]
) -> None:
    ranking = Ranking(**weights)
    bm25 = filled.words.bm25(text, ranking)
    oracle.check_ranked(filled, SearchOptions(**options, filter=filter), text, ranking, bm25)


@given(TEXTS, FILTERS)
@settings(max_examples=EXAMPLES // 2)
def test_words_are_those_of_the_oracle(filled: Filled, text: str, filter: str) -> None:
    collection, records, words = filled.collection, filled.records, filled.words
    scores = words.bm25(text, Ranking())
    expected = {
        one.id: scores[one.id]
        for one in records
        if one.id in scores and oracle.keeper(filter)(one) and not one.hidden
    }
    hits = collection.words(text, ROWS, filter)
    assert dict(hits) == pytest.approx(expected, abs=1e-4)
    assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)
    assert collection.words(text, 5, filter) == hits[:5]
