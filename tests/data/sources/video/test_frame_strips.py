from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.data.sources.base import read_metadata
from coca.data.sources.factory import open_source
from coca.data.sources.folder import FolderConfig
from coca.processing.image import decode
from coca.processing.video import as_file, spread


def write_strip(folder: Path, frames: int = 8) -> None:
    folder.mkdir()
    levels = np.repeat(np.arange(frames, dtype=np.uint8) * 10, 6)
    strip = np.broadcast_to(levels[None, :, None], (6, 6 * frames, 3))
    (folder / "wave.bmp").write_bytes(as_file(np.ascontiguousarray(strip)))


def test_strips_of_any_source_become_samples_of_frames(tmp_path: Path) -> None:
    write_strip(tmp_path / "wave")
    config = FolderConfig(path=str(tmp_path), strip=8, frames=3)
    sample = open_source(config).read(0)
    assert [int(decode(image)[0, 0, 0]) for image in sample.images] == [
        10 * position for position in spread(8, 3)
    ]
    assert sample.labels == ("wave",)
    assert decode(sample.image).shape == (3, 6, 6)
    assert read_metadata(open_source(config), 0).labels == ("wave",)


def test_a_strip_of_another_length_is_a_bad_sample(tmp_path: Path) -> None:
    write_strip(tmp_path / "wave")
    source = open_source(FolderConfig(path=str(tmp_path), strip=7, frames=3))
    with pytest.raises(DataError, match="cannot be cut into 7"):
        source.read(0)


def test_the_fingerprint_changes_with_the_cut(tmp_path: Path) -> None:
    write_strip(tmp_path / "wave")
    prints = {
        open_source(FolderConfig(path=str(tmp_path), strip=strip, frames=frames)).fingerprint
        for strip, frames in [(0, 16), (8, 4), (8, 2), (4, 4)]
    }
    assert len(prints) == 4
