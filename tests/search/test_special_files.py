"""FIFOs, endless devices and oversized files among the images."""

import os
from pathlib import Path
from typing import Any

import pytest

from coca.core.files.local_files import MAX_IMAGE_BYTES
from coca.search.ingest.parquet import find_vectors
from coca.search.ingest.sources import FileSource
from coca.search.store import Collection
from tiny_ingest import ingest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder with an image, a FIFO, an endless device and a sparse file of 0.5 GB."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "good.png").write_bytes(b"good")
    os.mkfifo(folder / "fifo.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    with (folder / "large.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    return folder


@pytest.mark.timeout(60)
def test_special_and_too_large_files_are_reported_and_the_others_are_read(
    folder: Path, embedder: Any, collection: Collection
) -> None:
    named = [folder, folder / "fifo.png"]
    report = ingest([FileSource(named)], embedder, collection)
    (records,) = collection.pages(vectors=False)
    assert [Path(record.path).name for record in records] == ["good.png"]
    faults = {Path(bad.path).name: (bad.reason, bad.detail) for bad in report.bad}
    assert {name: reason for name, (reason, _) in faults.items()} == {
        "fifo.png": "unreadable",
        "large.png": "too_large",
        "zero.png": "unreadable",
    }
    assert faults["fifo.png"][1].endswith("it is a FIFO, not a regular file")
    assert faults["zero.png"][1].endswith("it is a device, not a regular file")
    assert "at most 536,870,912 are read" in faults["large.png"][1]


@pytest.mark.timeout(60)
def test_a_fifo_called_parquet_holds_no_vectors(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    os.mkfifo(tmp_path / "a.parquet")
    assert find_vectors(tmp_path) == []
