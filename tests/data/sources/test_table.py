"""Parts of a table: always the same rows, together what belongs together."""

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError, DataError
from coca.data.sources import table as tables
from coca.data.sources.source import PartConfig
from coca.data.sources.table import Table, open_table, part_of


def table(values: list[Any]) -> Table:
    rows = [it if isinstance(it, str) else json.dumps({"image": it[0]}) for it in values]
    return open_table("\n".join(rows).encode(), "m.jsonl")


def images(part: Table) -> list[str]:
    return [part.row(number)["image"] for number in range(len(part))]


@given(st.lists(st.tuples(st.sampled_from("abcdefghij")), min_size=1), st.floats(0.2, 0.8))
def test_two_parts_hold_every_row_once_and_share_no_image(
    values: list[tuple[str]], cut: float
) -> None:
    whole = table(list(values))
    parts = []
    for part in (PartConfig(by="image", end=cut), PartConfig(by="image", start=cut)):
        try:
            parts.append(images(part_of(whole, part, "m.jsonl")))
        except ConfigError:
            parts.append([])  # one image alone cannot be parted
    assert sorted(parts[0] + parts[1]) == sorted(images(whole))
    assert not {*parts[0]} & {*parts[1]}
    assert len({*parts[0]}) == round(cut * len({*images(whole)}))


def test_a_part_stays_the_same_when_rows_come_in_another_order() -> None:
    values = [(f"{number}.png",) for number in range(50)]
    part = PartConfig(by="image", start=0.8)
    found = images(part_of(table(list(values)), part, "m.jsonl"))
    assert len(found) == 10
    assert {*images(part_of(table(values[::-1]), part, "m.jsonl"))} == {*found}


def test_a_damaged_row_stays_in_each_part_so_that_it_is_reported() -> None:
    part = part_of(table([("a",), ("b",), "{oops"]), PartConfig(by="image", end=0.5), "m.jsonl")
    assert len(part) == 2
    with pytest.raises(DataError, match="row 2"):
        part.row(1)


def test_what_cannot_be_parted_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"row 0 of m\.jsonl has no photo"):
        part_of(table([("a",)]), PartConfig(by="photo"), "m.jsonl")
    with pytest.raises(ConfigError, match=r"of 1 different image in m\.jsonl is empty"):
        part_of(table([("a",)]), PartConfig(by="image", end=0.3), "m.jsonl")
    with pytest.raises(ConfigError, match=r"start must be below end 0\.2, got 0\.8"):
        PartConfig(by="image", start=0.8, end=0.2)


def test_parquet_that_takes_far_more_memory_than_its_size_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "FREE_BYTES", 4 << 20)
    # One text of 10 kB in each of 100,000 rows: 1 GB.
    texts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 10_000])
    nothing = pa.nulls(2_000_000, pa.int64())
    for column in (texts, nothing):
        file = io.BytesIO()
        pq.write_table(pa.table({"image": column}), file, compression="zstd", store_schema=False)
        assert len(file.getvalue()) < 10_000
        with pytest.raises(DataError, match=r"m\.parquet of [\d,]+ bytes takes more") as caught:
            open_table(file.getvalue(), "m.parquet")
        assert caught.value.reason == "too_large"
