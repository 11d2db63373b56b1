import json
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.records import (
    CollectionInfo,
    check_same_model,
    content_id,
    record_id,
    source_of,
    storage_error,
    unit_rows,
)

INFO = CollectionInfo(
    uri="a.db",
    collection="pictures",
    count=0,
    embed_dim=4,
    fingerprint="abc",
    model="runs/abc",
    store="SQLite 3.46.1",
)


def test_the_id_of_an_image_depends_on_its_bytes_alone() -> None:
    assert content_id(b"cat") == content_id(b"cat") != content_id(b"dog")
    assert len(content_id(b"cat")) == 32


def test_another_model_is_refused_by_both_names_and_a_way_out() -> None:
    with pytest.raises(SearchError, match=r"abc \(runs/abc\), and not by xyz: .*--collection NAME"):
        check_same_model(INFO, fingerprint="xyz", embed_dim=4)


@pytest.mark.parametrize(
    ("vector", "fault"),
    [
        ([np.nan, 0, 0, 0], "NaN or infinity"),
        ([np.inf, 0, 0, 0], "NaN or infinity"),
        ([0, 0, 0, 0], "length 0"),
        ([1, 1, 0, 0], r"length 1\.414"),
    ],
)
def test_a_vector_that_cannot_be_compared_is_refused_by_name(vector: Any, fault: str) -> None:
    vectors = np.stack([one(), np.asarray(vector, dtype=np.float32)])
    with pytest.raises(SearchError, match=f"b has .*{fault}"):
        unit_rows(vectors, 4, ["a", "b"])


def test_a_vector_of_another_size_is_refused() -> None:
    with pytest.raises(SearchError, match="collection takes rows of 5 numbers"):
        unit_rows(one()[np.newaxis], 5, ["a"])


def test_a_vector_rounded_to_sixteen_bits_is_close_enough() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((100, 512))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    unit_rows(vectors.astype(np.float16), 512, [""] * 100)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"path": "/x" * 2_100}, "the path has 4,200 bytes; at most 4,096 fit"),
        ({"caption": "é" * 40_000}, "the caption has 80,000 bytes"),
        ({"metadata": {"x": "y" * 70_000}}, "the metadata has 70,009 bytes"),
        ({"metadata": {"x": float("nan")}}, "cannot be written as JSON"),
        ({"metadata": {"x": object()}}, "cannot be written as JSON"),
        ({"metadata": {"x": 1, 2: 3}}, "cannot be written as JSON"),
        ({"metadata": {"n": [{"x": 2**64}]}}, "'n' has a whole number that does not fit into 64"),
        ({"metadata": {"n": -(2**63) - 1}}, "-9,223,372,036,854,775,808 to 18,446,744,073,709,551"),
        ({"metadata": {"n": json.loads("[" * 600 + "]" * 600)}}, "'n' is nested more than 100"),
        ({"caption": "\ud800"}, "the caption contains characters that are not valid Unicode"),
        ({"metadata": {"x": "\ud800"}}, "the metadata contains characters"),
        ({"path": "a\udcff.jpg"}, "the path contains characters"),
    ],
)
def test_texts_that_cannot_be_stored_are_reported(words: Any, fault: str) -> None:
    found = storage_error(**({"path": "a", "caption": "", "metadata": {}} | words))
    assert found is not None
    assert fault in found


def test_ordinary_texts_have_no_error() -> None:
    deep = json.loads("[" * 98 + "]" * 98)
    ordinary = {"deep": {"er": [1, 2.5, None, True]}, "n": [-(2**63), 2**64 - 1], "d": deep}
    assert storage_error("/pictures/ä.jpg", "a 🚗\n", ordinary) is None


def one() -> Any:
    return np.asarray([1, 0, 0, 0], dtype=np.float32)


@pytest.mark.parametrize("time", [10**30, 2**63, -(2**63)])
def test_a_time_that_does_not_fit_cannot_be_stored(time: int) -> None:
    assert "the time is" in str(storage_error("", "", {}, time=time))


FILE, TABLE, OTHER = "10-20", "0123abcd:77,0123abcd:78", "ffffffff:1"


def test_tables_are_distinguished_and_everything_else_counts_as_one() -> None:
    assert [source_of(one) for one in (TABLE, OTHER)] == ["0123abcd:", "ffffffff:"]
    assert {source_of(one) for one in (FILE, "", "10-20/5s+", "0123abcd", 'W/"12:34"')} == {""}


def test_the_id_of_a_record_depends_on_its_path_and_its_source() -> None:
    ids = {record_id("a.jpg"), record_id("b.jpg"), record_id("a.jpg", source_of(TABLE))}
    assert len(ids) == 3
    assert record_id("a.jpg", source_of(FILE)) == record_id("a.jpg")
    assert {len(id) for id in ids} == {32}
