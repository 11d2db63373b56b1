import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coca.core.errors import SearchError
from coca.search.filters import where
from coca.search.milvus import Index
from coca.search.records import Record

# Surrogates are no text; they are refused before they reach Milvus.
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NASTY = st.text(st.sampled_from(list("\\\"'\n\r\t %_{}$)n")), max_size=8)
VALUES = st.one_of(WORDS, NASTY, st.booleans(), st.integers(-(2**53), 2**53))


@pytest.fixture(scope="module")
def shared_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    place = tmp_path_factory.mktemp("filters") / "pictures.db"
    with Index.open(str(place), embed_dim=16, fingerprint="model-one", create=True) as index:
        yield index


@given(key=st.one_of(WORDS, NASTY), value=VALUES, other=VALUES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_filter_finds_exactly_the_records_with_that_value(
    shared_index: Index, make_record: Callable[..., Record], key: str, value: Any, other: Any
) -> None:
    shared_index.upsert(
        [
            make_record("equal", caption=json.dumps(value), metadata={key: value}),
            make_record("other", caption=json.dumps(other), metadata={key: other}),
            make_record("without", caption=""),
        ]
    )
    differs = json.dumps(other) != json.dumps(value)
    ids = {"equal"} if differs else {"equal", "other"}
    assert found(shared_index, where(f"metadata.{key}", "==", value)) == ids
    assert found(shared_index, where(f"metadata.{key}", "in", [value])) == ids
    assert found(shared_index, where("caption", "==", json.dumps(value))) == ids
    assert found(shared_index, where("caption", "in", [json.dumps(value)])) == ids


def test_an_empty_list_holds_no_record(
    shared_index: Index, make_record: Callable[..., Record]
) -> None:
    shared_index.upsert([make_record("any", metadata={"x": 1})])
    assert found(shared_index, where("metadata.x", "in", [])) == set()


def test_numbers_are_compared_by_size(
    shared_index: Index, make_record: Callable[..., Record]
) -> None:
    shared_index.upsert(make_record(f"n{n}", metadata={"size": n}) for n in range(5))
    assert found(shared_index, where("metadata.size", ">=", 2.5)) == {"n3", "n4"}
    assert found(shared_index, where("metadata.size", "<", 1)) == {"n0"}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("vector", "==", 1), "no filter on 'vector'"),
        (("caption", "~", "x"), "no operator '~'"),
        (("caption", "in", "x"), "needs a list"),
        (("caption", "in", 3), "needs a list"),
        (("metadata.x", "==", float("inf")), "not inf"),
        (("metadata.x", "==", float("nan")), "not nan"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(arguments: Any, fault: str) -> None:
    with pytest.raises(SearchError, match=fault):
        where(*arguments)


def found(index: Index, filter: str) -> set[str]:
    rows = index._pictures.query(filter, ["id"], limit=100)
    return {row["id"] for row in rows}
