"""A disk that is really full: no acknowledged row of Milvus Lite is lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import StorageError
from coca.search.milvus import lite, rows
from coca.search.milvus.collection import Collection
from coca.search.records import Record
from limited_disk import LimitedDisk, limited_disk

EMBED_DIM = 64


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LimitedDisk]:
    with limited_disk(tmp_path, kind=request.param, size_mb=100) as mounted:
        yield mounted


def record(number: int) -> Record:
    vector = np.random.default_rng(number).standard_normal(EMBED_DIM).astype(np.float32)
    return Record(
        id=f"{number:032x}",
        path="",
        caption="a caption of some length " * 40,
        vector=vector / np.linalg.norm(vector),
    )


def opened(folder: Path) -> Collection:
    return Collection.open(
        str(folder / "a.db"), embed_dim=EMBED_DIM, fingerprint="0" * 24, create=True
    )


def write_until_full(collection: Collection, start: int) -> set[str]:
    """Write rows one by one until several are refused; the ids that were acknowledged."""
    written: set[str] = set()
    refused = 0
    for number in range(start, start + 100_000):
        one = record(number)
        try:
            collection.upsert([one])
        except StorageError:
            refused += 1
            if refused == 5:
                return written
        else:
            written.add(one.id)
    raise AssertionError("the disk was never full")


def test_rows_are_refused_before_the_disk_is_full(disk: LimitedDisk) -> None:
    with opened(disk.folder) as collection:
        collection.upsert([record(0), record(1)])
        disk.fill(leave=lite.MIN_FREE_BYTES - (1 << 20))
        with pytest.raises(StorageError, match="free bytes, and at least 67,108,864"):
            collection.upsert([record(2)])
        with pytest.raises(StorageError, match="free bytes"):
            collection.flush()
        assert set(collection.ids()) == {record(0).id, record(1).id}
        # Deletions make space, and need little.
        collection.delete([record(1).id])
        assert collection.ids() == [record(0).id]
        disk.clear()
        collection.upsert([record(2)])
        collection.flush()
        assert set(collection.ids()) == {record(0).id, record(2).id}


def test_a_write_into_a_full_disk_loses_no_acknowledged_row(
    disk: LimitedDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if another process took the space between the check and the write.
    monkeypatch.setattr(lite, "MIN_FREE_BYTES", 0)
    with opened(disk.folder) as collection:
        collection.upsert([record(number) for number in range(20)])
        disk.fill(leave=40_000)
        written = set(collection.ids()) | write_until_full(collection, 100)
        assert set(collection.ids()) == written
        disk.clear()
        for number in range(500, 503):
            collection.upsert([record(number)])
            written.add(record(number).id)
        assert set(collection.ids()) == written
        # What a killed process leaves.
        shutil.copytree(disk.folder / "a.db", tmp_path / "killed" / "a.db")
    for folder in (tmp_path / "killed", disk.folder):
        with opened(folder) as collection:
            assert set(collection.ids()) == written


# Lite leaves the log of the flush open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_written_after_a_flush_that_failed(
    disk: LimitedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {record(number).id for number in range(50)}
    with opened(disk.folder) as collection:
        collection.upsert([record(number) for number in range(50)])
        disk.fill()
        with monkeypatch.context() as patched:
            patched.setattr(lite, "MIN_FREE_BYTES", 0)
            with pytest.raises(StorageError):
                collection.flush()
        disk.clear()
        with pytest.raises(StorageError, match="open it again"):
            collection.upsert([record(100)])
        with pytest.raises(StorageError, match="open it again"):
            collection.delete([record(1).id])
    with opened(disk.folder) as collection:
        assert set(collection.ids()) == written
        collection.upsert([record(100)])
        assert set(collection.ids()) == written | {record(100).id}


def test_deletions_go_on_without_the_space_of_a_flush(
    disk: LimitedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "FLUSH_ROWS", 5)
    with opened(disk.folder) as collection:
        collection.upsert([record(number) for number in range(20)])
        disk.fill(leave=lite.MIN_FREE_TO_DELETE + (4 << 20))
        collection.delete([record(number).id for number in range(12)])
        assert len(collection.ids()) == 8
