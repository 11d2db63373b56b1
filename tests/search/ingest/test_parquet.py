from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import DataError, SearchError
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.parquet import (
    VectorsInfo,
    find_vectors,
    read_info,
    read_vectors,
    write_vectors,
)
from coca.search.ingest.pipeline import ingest_vectors
from coca.search.records import Origin, Record
from coca.search.store import Collection
from store_changes import patch

parquet = pytest.importorskip("pyarrow.parquet")

Make = Callable[..., Record]


def about(**changes: Any) -> VectorsInfo:
    settings: dict[str, Any] = {
        "fingerprint": "model-one",
        "embed_dim": 16,
        "model": "runs/one",
        "source": "/shards/a.tar",
        "images": 3,
        "bad": 0,
    }
    return VectorsInfo(**settings | changes)


@pytest.fixture
def batch(make_record: Make) -> list[Record]:
    bare = make_record("b", content="0b", origin=Origin(etag="1", label="x"))
    full = make_record(
        "a",
        caption='a "cat" ä',
        width=3,
        height=4,
        time=-5,
        tags=("x", "ÿ"),
        album="album",
        metadata={"n": [1, None, {"ä": 0.5}]},
        text_vector=make_record("words").vector,
        perceptual_hash=bytes(range(256)),
        hidden=True,
        origin=Origin(etag="7", label="y", captioned=True, dated="file", read=5),
    )
    return [full, bare]


def test_a_file_of_another_version_is_refused(tmp_path: Path, batch: list[Record]) -> None:
    path = tmp_path / "a.parquet"
    write_vectors(path, batch, about())
    table = parquet.read_table(path)
    metadata = {
        key: value.replace(b'"images"', b'"other"') for key, value in table.schema.metadata.items()
    }
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match="was written by another version of coca, or is damaged"):
        read_info(path)


def test_vectors_fill_a_collection_without_a_model_and_only_once(
    tmp_path: Path, batch: list[Record], collection: Collection
) -> None:
    path = tmp_path / "a.parquet"
    write_vectors(path, batch, about())
    assert ingest_vectors([path], collection) == IngestReport(added=2)
    assert read_info(path) == about()
    stored = collection.get(["a", "b"])
    assert stored == {record.id: record for record in batch}
    assert all(np.array_equal(stored[record.id].vector, record.vector) for record in batch)
    assert stored["a"].text_vector == pytest.approx(batch[0].text_vector)
    assert stored["b"].text_vector is None
    assert ingest_vectors([path], collection) == IngestReport(unchanged=2)
    assert collection.count() == 2


def test_newer_captions_and_images_of_a_path_replace_older_ones(
    tmp_path: Path, make_record: Make, collection: Collection
) -> None:
    def made(path: str, name: str, etag: str, caption: str) -> Record:
        origin = Origin(etag=etag, label=caption)
        words, vector = make_record(caption).vector, make_record(name).vector
        fields: dict[str, Any] = {"caption": caption, "vector": vector, "text_vector": words}
        return Record(id=path, path=path, content=name, origin=origin, **fields)

    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    write_vectors(old, [made("a", "1", "s1", "one"), made("b", "2", "s1", "two")], about())
    ingest_vectors([old], collection)
    patch(collection, {id: {"tags": ("mine",), "hidden": True} for id in "ab"})
    write_vectors(new, [made("a", "1", "s2", "uno"), made("b", "3", "s2", "two")], about())
    assert ingest_vectors([new], collection) == IngestReport(updated=2)
    one, other = collection.get("ab").values()
    # What people changed stays with the same label, here the caption.
    assert (one.caption, one.tags, one.hidden) == ("uno", (), True)
    assert one.text_vector == pytest.approx(make_record("uno").vector)
    assert (other.caption, other.tags, other.hidden) == ("two", ("mine",), True)
    assert other.vector == pytest.approx(make_record("3").vector)


def test_of_the_same_image_only_a_caption_that_the_collection_lacks_is_new(
    tmp_path: Path, make_record: Make, collection: Collection
) -> None:
    record, path = make_record("a", origin=Origin(etag="s1")), tmp_path / "a.parquet"
    for caption, report in (
        ("", IngestReport(added=1)),
        ("", IngestReport(unchanged=1)),
        ("a cat", IngestReport(updated=1)),
        ("a cat", IngestReport(unchanged=1)),
    ):
        write_vectors(path, [replace(record, caption=caption)], about())
        assert ingest_vectors([path], collection) == report
        assert collection.get(["a"])["a"].caption == caption


def test_vectors_of_another_model_or_that_cannot_be_stored_are_refused(
    tmp_path: Path, batch: list[Record], collection: Collection
) -> None:
    path = tmp_path / "a.parquet"
    write_vectors(path, batch, about(fingerprint="model-two"))
    with pytest.raises(SearchError, match="and not by model-two"):
        ingest_vectors([path], collection)
    wrong = Record(id="x", path="/x", vector=np.zeros(16, np.float32))
    with pytest.raises(SearchError, match="its length must be 1"):
        write_vectors(tmp_path / "b.parquet", [wrong], about())
    assert not (tmp_path / "b.parquet").exists()


def test_files_of_vectors_are_distinguished_from_other_tables(
    tmp_path: Path, batch: list[Record]
) -> None:
    import pyarrow

    parquet.write_table(pyarrow.table({"image": ["a.png"]}), tmp_path / "table.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert find_vectors(tmp_path) == []
    write_vectors(tmp_path / "a.parquet", batch, about())
    assert find_vectors(tmp_path) == [tmp_path / "a.parquet"]
    assert find_vectors(tmp_path / "table.parquet") == []
    with pytest.raises(DataError, match="is not a vectors file"):
        read_info(tmp_path / "table.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (b"nothing", whole[:50] + b"\0" * 900 + whole[950:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.parquet is damaged"):
            list(read_vectors(tmp_path / "a.parquet"))
