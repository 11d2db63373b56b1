import json
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.loading.bad_samples import MIN_SEEN, BadSampleLog
from coca.data.sample import BadSample


def bad(row: int, *, source: str = "s", reason: str = "truncated") -> BadSample:
    return BadSample(f"k{row}", source, row, reason, f"sample {row} is bad")


def rows(path: Path) -> list[tuple[str, int]]:
    return [(e["source"], e["row"]) for e in map(json.loads, path.read_text().splitlines())]


def test_each_bad_sample_is_listed_once_and_counted_each_time(tmp_path: Path) -> None:
    log = BadSampleLog(tmp_path / "bad.jsonl", 1.0)
    log.add(10, [bad(1), bad(2, reason="missing")])
    log.add(10, [bad(1), bad(1, source="t")])
    assert rows(tmp_path / "bad.jsonl") == [("s", 1), ("s", 2), ("t", 1)]
    assert log.counts == {"truncated": 3, "missing": 1}
    first = json.loads((tmp_path / "bad.jsonl").read_text().splitlines()[0])
    assert first == {
        "key": "k1",
        "source": "s",
        "row": 1,
        "reason": "truncated",
        "detail": "sample 1 is bad",
    }


def test_a_later_run_lists_nothing_again_even_after_a_half_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    BadSampleLog(path, 1.0).add(10, [bad(1), bad(2)])
    path.write_bytes(path.read_bytes()[:-20])
    log = BadSampleLog(path, 1.0)
    log.add(10, [bad(1), bad(2), bad(3)])
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    assert [json.loads(lines[n])["row"] for n in (0, 2, 3)] == [1, 2, 3]


def test_too_many_bad_samples_stop_the_run_with_the_counts(tmp_path: Path) -> None:
    log = BadSampleLog(tmp_path / "bad.jsonl", 0.01)
    log.add(5000, [bad(row) for row in range(50)])
    with pytest.raises(DataError, match=r"51 of 5,051 .* 0\.01 .*50 truncated, 1 missing.*jsonl"):
        log.add(0, [bad(50, reason="missing")])
    # The last one is listed nevertheless.
    assert len(rows(tmp_path / "bad.jsonl")) == 51


def test_a_few_bad_samples_at_the_beginning_do_not_stop_the_run() -> None:
    allowed = round(0.01 * MIN_SEEN)
    log = BadSampleLog(None, 0.01)
    log.add(1, [bad(row) for row in range(allowed)])
    with pytest.raises(DataError, match=r"11 truncated$"):
        log.add(1, [bad(allowed)])


def test_none_are_allowed_if_the_share_is_nought() -> None:
    log = BadSampleLog(None, 0.0)
    log.add(10**6, [])
    with pytest.raises(DataError, match="1 of"):
        log.add(10**6, [bad(1)])
