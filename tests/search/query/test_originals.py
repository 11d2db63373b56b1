"""Original images of records, by the content that their ids or origins state."""

from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.core.files.local_files import read_file
from coca.search.query.originals import read_original, read_originals
from coca.search.records import Origin, Record, content_id


def record(id: str, path: Path, **origin: object) -> Record:
    vector = np.eye(1, 4, dtype=np.float32)[0]
    return Record(id=id, path=str(path), vector=vector, origin=Origin(**origin))  # type: ignore[arg-type]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    return path


def test_an_id_that_is_a_hash_is_compared_with_the_content(image: Path) -> None:
    assert read_original(record(content_id(b"one"), image), read_file) == b"one"
    with pytest.raises(DataError, match="contains another image now"):
        read_original(record(content_id(b"two"), image), read_file)


@pytest.mark.parametrize("id", ["cat-1", "0123456789abcdef" * 2])
def test_with_another_id_the_content_of_the_origin_is_compared(image: Path, id: str) -> None:
    known = record(id, image, content=content_id(b"one"))
    assert read_originals([known], read_file) == ({id: b"one"}, [])
    image.write_bytes(b"two")
    with pytest.raises(DataError, match="contains another image now"):
        read_original(known, read_file)


def test_with_an_id_that_is_no_hash_and_no_known_content_any_image_is_the_original(
    image: Path,
) -> None:
    assert read_original(record("cat-1", image), read_file) == b"one"


def test_another_path_of_the_same_content_is_read(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.png"
    other.write_bytes(b"one")
    both = record(content_id(b"one"), image, files={str(image): "", str(other): ""})
    image.unlink()
    assert read_original(both, read_file) == b"one"
