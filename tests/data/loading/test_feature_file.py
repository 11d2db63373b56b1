import pickle
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import DataError, StorageError
from coca.data.loading.feature_file import (
    HEADER_BYTES,
    FeatureFile,
    FeatureKey,
    FeatureWriter,
)

KEY = FeatureKey(encoder="e", transform="t", data="d", rows=7, views=2, tokens=3, width=4)


def made_up(rows: int = KEY.rows) -> np.ndarray:
    chance = np.random.default_rng(0)
    return chance.normal(size=(rows, KEY.views, KEY.tokens, KEY.width)).astype(np.float16)


def write(folder: Path, *, rows: int = KEY.rows) -> None:
    """Append the rows that are missing, two at a time, and finish if these are all."""
    with FeatureWriter(folder, KEY) as writer:
        for start in range(writer.rows_done, rows, 2):
            end = min(start + 2, rows)
            writer.append(made_up()[start:end], np.arange(start, end) != 4)
        if rows == KEY.rows:
            writer.finish()


def test_every_view_of_every_usable_row_comes_back(tmp_path: Path) -> None:
    write(tmp_path)
    file = FeatureFile(tmp_path / KEY.file_name, KEY)
    for row in range(KEY.rows):
        for view in range(KEY.views):
            found = file.read(row, view)
            if row == 4:
                assert found is None
            else:
                assert found is not None
                np.testing.assert_array_equal(found, made_up()[row, view])


@pytest.mark.parametrize("lost_bytes", [0, 5])
def test_an_interrupted_writer_continues_and_the_file_is_equal(
    lost_bytes: int, tmp_path: Path
) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "parts", rows=3)
    (unfinished,) = (tmp_path / "parts").iterdir()
    assert unfinished.name.startswith(".incomplete-")
    content = unfinished.read_bytes()
    unfinished.write_bytes(content[: len(content) - lost_bytes])
    write(tmp_path / "parts")
    one, other = (tmp_path / name / KEY.file_name for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()
    assert not unfinished.exists()


def test_a_file_of_other_data_or_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / KEY.file_name
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"x", b"x" + content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged or of other data"):
            FeatureFile(path, KEY)


def test_a_changed_byte_is_found_when_its_row_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / KEY.file_name
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + KEY.record.itemsize + 1] ^= 1
    path.write_bytes(content)
    file = FeatureFile(path, KEY)
    assert file.read(0, 0) is not None
    assert file.read(1, 1) is not None
    with pytest.raises(DataError, match=r"the features of row 1 .* are damaged"):
        file.read(1, 0)


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        FeatureWriter(tmp_path, KEY),
        pytest.raises(StorageError, match="is being written by another process"),
        FeatureWriter(tmp_path, KEY),
    ):
        pass


def test_a_reader_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    write(tmp_path)
    file = FeatureFile(tmp_path / KEY.file_name, KEY)
    file.read(0, 0)
    sent = pickle.dumps(file)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).read(2, 1), made_up()[2, 1])
