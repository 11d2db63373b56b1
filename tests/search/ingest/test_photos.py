"""Photos in a collection: what they carry, also in records of before and with sidecars."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import ArgumentError
from coca.search.filters import has_all_tags, has_any_tag, negate, where
from coca.search.ingest.sources import FileSource
from coca.search.records import Record, record_id
from coca.search.store import Collection
from tiny_ingest import ingest

Make = Callable[..., Record]


def record_of(collection: Collection, path: Path) -> Record:
    (record,) = collection.get([record_id(str(path))]).values()
    return record


def photo(path: Path, **properties: str) -> bytes:
    """Write a photo of a camera whose XMP has these properties of Dublin Core."""
    exif = Image.Exif()
    exif[0x0110], exif[0x0132] = "Canon EOS R5", "2024:05:31 18:30:00"
    names = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    names += ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
    inner = "".join(f"<dc:{name}>{text}</dc:{name}>" for name, text in properties.items())
    xmp = f"<rdf:RDF {names}><rdf:Description>{inner}</rdf:Description></rdf:RDF>".encode()
    Image.new("RGB", (4, 3)).save(path, exif=exif, xmp=xmp)
    return path.read_bytes()


def test_photos_have_the_fields_that_they_carry(
    collection: Collection, embedder: Any, tmp_path: Path
) -> None:
    photo(tmp_path / "a.jpg", description="a boat", subject="sea", title="Boat")
    (tmp_path / "a.json").write_text('{"title": "Mine", "tags": ["t"]}')
    ingest([FileSource([tmp_path])], embedder, collection)
    record = record_of(collection, tmp_path / "a.jpg")
    assert (record.caption, record.caption_source) == ("a boat", "given")
    assert record.metadata == {"title": "Mine", "camera": "Canon EOS R5"}
    assert (record.tags, record.date_source) == (("t", "sea"), "taken")
    found = [where("metadata.camera", "==", "Canon EOS R5"), has_any_tag(["sea"])]
    assert [collection.ids(filter) for filter in found] == [[record.id], [record.id]]


def test_records_of_before_gain_the_fields_without_a_model(
    collection: Collection, embedder: Any, tmp_path: Path
) -> None:
    photo(tmp_path / "a.jpg", description="a boat", subject="sea", title="Boat")
    (tmp_path / "b.png").write_bytes(b"no photo")
    ingest([FileSource([tmp_path])], embedder, collection)
    stored = collection.get(collection.ids())
    # As a version of before wrote them, with what people changed since.
    collection.upsert(
        replace(
            record,
            caption="",
            text_vector=None,
            tags=("mine",),
            metadata={"title": "Changed", "seen": True},
            origin=replace(record.origin, read=0),
        )
        for record in stored.values()
    )
    embedder.embedded.clear()
    report = ingest([FileSource([tmp_path])], embedder, collection)
    assert (report.updated, report.unchanged, embedder.embedded) == (1, 1, [])
    record = record_of(collection, tmp_path / "a.jpg")
    assert record.metadata == {"title": "Changed", "seen": True, "camera": "Canon EOS R5"}
    assert (record.caption, record.tags) == ("a boat", ("mine", "sea"))
    assert record.text_vector is not None
    assert np.array_equal(record.vector, stored[record.id].vector)
    assert ingest([FileSource([tmp_path])], embedder, collection).unchanged == 2


def test_people_are_filtered_as_a_list(collection: Collection, make_record: Make) -> None:
    people: dict[str, dict[str, Any]] = {
        "a": {"people": ["Anna", "Ben"]},
        "b": {"people": ["Ben"]},
        "c": {},
    }
    collection.upsert(make_record(name, metadata=fields) for name, fields in people.items())

    def ids(filter: str) -> list[str]:
        return sorted(collection.ids(filter))

    any_of_both = has_any_tag(["Anna", "Ben"], "metadata.people")
    assert ids(has_any_tag(["Anna"], "metadata.people")) == ["a"]
    assert ids(has_all_tags(["Anna", "Ben"], "metadata.people")) == ["a"]
    assert (ids(any_of_both), ids(negate(any_of_both))) == (["a", "b"], ["c"])
    with pytest.raises(ArgumentError, match="no filter on 'people'"):
        has_any_tag(["Anna"], "people")


class Reading:
    """Stub of OCR: the text of an image is the text of its bytes."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, images: Sequence[bytes]) -> list[str]:
        self.read += len(images)
        return [image.decode() if image.startswith(b"INVOICE") else "" for image in images]


def test_the_text_inside_images_is_read_once_and_kept(
    collection: Collection, embedder: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"INVOICE 2024-118")
    (tmp_path / "b.jpg").write_bytes(b"a dog")
    id, reading = record_id(str(tmp_path / "a.jpg")), Reading()
    source = FileSource([tmp_path])
    ingest([source], embedder, collection)
    embedder.embedded.clear()
    report = ingest([source], embedder, collection, text_reader=reading)
    assert (report.updated, report.unchanged, embedder.embedded) == (2, 0, [])
    assert collection.get([id])[id].metadata == {"ocr_text": "INVOICE 2024-118"}
    (tmp_path / "a.json").write_text('{"year": 2024}')
    for text_reader in (reading, None, reading):
        ingest([source], embedder, collection, text_reader=text_reader)
    kept = collection.get([id])[id].metadata
    assert (kept, reading.read) == ({"ocr_text": "INVOICE 2024-118", "year": 2024}, 2)


def test_a_raw_photo_and_its_jpeg_are_one_item(
    collection: Collection, embedder: Any, tmp_path: Path
) -> None:
    photo(tmp_path / "a.jpg", title="Boat")
    id = record_id(str(tmp_path / "a.jpg"))
    ingest([FileSource([tmp_path])], embedder, collection)
    # Copied from the camera later; `b` has another folder, and `c` no other file.
    raw = {name: name.encode() for name in ("a.NEF", "deep/a.dng", "c.CR2")}
    for name, data in raw.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    embedder.embedded.clear()
    report = ingest([FileSource([tmp_path])], embedder, collection)
    assert (report.added, report.updated) == (2, 1)
    assert sorted(embedder.embedded) == [b"c.CR2", b"deep/a.dng"]
    record = collection.get([id])[id]
    assert record.metadata == {"title": "Boat", "camera": "Canon EOS R5", "raw_file": "a.NEF"}
    assert ingest([FileSource([tmp_path])], embedder, collection).unchanged == 3
    # One that was indexed alone becomes a part of the photo that is copied later.
    photo(tmp_path / "c.jpg", title="Tram")
    report = ingest([FileSource([tmp_path])], embedder, collection, prune=True)
    assert (report.added, report.removed) == (1, 1)
    assert record_of(collection, tmp_path / "c.jpg").metadata["raw_file"] == "c.CR2"
