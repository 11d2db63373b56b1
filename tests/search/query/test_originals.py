"""Original images of records, by their content."""

from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.core.files.local_files import read_file
from coca.search.query.originals import read_original, read_originals
from coca.search.records import Record, content_id


def record(path: Path, content: str = "") -> Record:
    vector = np.eye(1, 4, dtype=np.float32)[0]
    return Record(id=path.stem, path=str(path), content=content, vector=vector)


def test_an_image_is_read_if_it_has_the_content_of_its_record(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    assert read_original(record(image, content_id(b"one")), read_file) == b"one"
    assert read_original(record(image), read_file) == b"one"
    changed, gone = record(image, content_id(b"two")), record(tmp_path / "b.png")
    with pytest.raises(DataError, match="contains another image now"):
        read_original(changed, read_file)
    images, lost = read_originals([gone, changed, record(image)], read_file)
    assert images == {"a": b"one"}
    assert [reason.partition(" ")[0] for reason in lost] == [str(image), gone.path]
