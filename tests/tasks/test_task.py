from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.tasks.task import read_samples
from tiny_data import make_samples
from tiny_datasets import write_folder
from tiny_run import Bars, recording

BROKEN = Sample("s0001", b"no image at all", captions=("a cat",))


def test_samples_come_in_order_and_are_counted(tmp_path: Path) -> None:
    config = write_folder(tmp_path, make_samples(5))
    bars: Bars = {}
    with recording(bars):
        samples, bad = read_samples(config)
    assert [sample.key for sample in samples] == [f"s{number:04d}" for number in range(5)]
    assert bad == ()
    assert bars[f"reading {tmp_path}", 5].count == 5


@pytest.mark.parametrize(("limit", "count"), [(0, 5), (3, 3), (9, 5)])
def test_a_limit_takes_the_first(tmp_path: Path, limit: int, count: int) -> None:
    config = write_folder(tmp_path, make_samples(5))
    assert len(read_samples(config, limit=limit)[0]) == count


def test_a_broken_image_is_skipped_and_reported(tmp_path: Path) -> None:
    config = write_folder(tmp_path, [*make_samples(1), BROKEN, *make_samples(3)[2:]])
    samples, bad = read_samples(config)
    assert [sample.key for sample in samples] == ["s0000", "s0002"]
    (sentence,) = bad
    assert sentence.startswith("s0001: ")


def test_an_unreadable_sidecar_is_skipped_and_reported(tmp_path: Path) -> None:
    config = write_folder(tmp_path, make_samples(2))
    (tmp_path / "s0000.json").write_text("{")
    samples, (sentence,) = read_samples(config)
    assert [sample.key for sample in samples] == ["s0001"]
    assert "s0000.json" in sentence


def test_nothing_but_broken_images_is_an_error_with_a_cause(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sample of .* can be read: s0001: "):
        read_samples(write_folder(tmp_path, [BROKEN]))
