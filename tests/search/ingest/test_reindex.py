"""Reindex with another model into a second collection."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import DataError, SearchError
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.reindex import reindex
from coca.search.ingest.sources import FileSource
from coca.search.milvus.catalog import point_alias
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.records import Origin, Record, content_id


class Newer:
    """Another model, with another vector size."""

    fingerprint, embed_dim = "model-two", 8

    def __init__(self) -> None:
        self.embedded: list[bytes] = []

    def embed_images(self, images: Any) -> Float32[np.ndarray, "N E"]:
        if any(image.startswith(b"odd") for image in images):
            raise DataError("this is not an image for the newer model", reason="not_an_image")
        self.embedded.extend(images)
        return np.stack([np.eye(8, dtype=np.float32)[image[0] % 8] for image in images])

    def embed_texts(self, texts: Any) -> Float32[np.ndarray, "N E"]:
        return np.stack([np.eye(8, dtype=np.float32)[len(text) % 8] for text in texts])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "pictures"
    images.mkdir()
    for n in range(6):
        (images / f"{n}.jpg").write_bytes(b"%d" % n)
        (images / f"{n}.txt").write_text("a" * n)
    return images


@pytest.fixture
def both(tmp_path: Path, folder: Path, embedder: Any) -> Iterator[tuple[Collection, Collection]]:
    uri = str(tmp_path / "a.db")
    with (
        Collection.open(uri, embed_dim=16, fingerprint="model-one", create=True) as old,
        Collection.open(uri, "new", embed_dim=8, fingerprint="model-two", create=True) as new,
    ):
        ingest([FileSource([folder])], embedder, old)
        yield old, new


def test_an_image_with_an_id_of_its_own_is_embedded_again_when_it_changes(
    both: tuple[Collection, Collection], tmp_path: Path
) -> None:
    old, new = both
    path, newer = tmp_path / "own.jpg", Newer()

    def put(data: bytes) -> None:
        path.write_bytes(data)
        origin, vector = Origin(content=content_id(data)), np.eye(16, dtype=np.float32)[0]
        old.upsert([Record(id="own", path=str(path), vector=vector, origin=origin)])

    for data in (b"3 first", b"5 second"):
        put(data)
        report = reindex(old, newer, new)
        assert report.lost == []
        assert new.get(["own"])["own"].vector.argmax() == data[0] % 8
    assert newer.embedded.count(b"5 second") == 1
    assert reindex(old, newer, new).embedded == 0


def test_texts_without_an_image_are_embedded_as_texts(both: tuple[Collection, Collection]) -> None:
    old, new = both
    for caption in ("four", "four more"):
        vector = np.eye(16, dtype=np.float32)[0]
        text = Record(id="text", path="", caption=caption, vector=vector, text_vector=vector)
        old.upsert([text])
        assert reindex(old, Newer(), new).lost == []
        found = new.get(["text"])["text"]
        assert found.text_vector is not None
        assert found.vector.argmax() == found.text_vector.argmax() == len(caption) % 8


def test_everything_but_the_vectors_stays(both: tuple[Collection, Collection]) -> None:
    old, new = both
    report = reindex(old, Newer(), new, batch_size=4)
    assert (report.embedded, report.kept, report.lost) == (6, 0, [])
    before, after = old.get(old.ids()), new.get(new.ids())
    assert after == before
    for id, record in after.items():
        captioned = before[id].text_vector is not None
        assert (record.text_vector is not None) == captioned
        assert record.vector.shape == (8,)


def test_an_earlier_model_gets_what_the_collection_holds_now(
    both: tuple[Collection, Collection], folder: Path, embedder: Any
) -> None:
    old, new = both
    reindex(old, Newer(), new)
    (folder / "1.jpg").unlink()
    (folder / "2.txt").write_text("other words")
    (folder / "3.txt").unlink()
    (folder / "4.json").write_text('{"tags": ["car"]}')
    (folder / "0.txt").write_text("words at last")
    (folder / "7.jpg").write_bytes(b"7")
    ingest([FileSource([folder])], embedder, old, prune=True)
    newer = Newer()
    report = reindex(old, newer, new)
    assert (report.embedded, report.kept, report.updated, report.removed) == (1, 5, 4, 1)
    assert newer.embedded == [b"7"]
    now = new.get(new.ids())
    assert now == old.get(old.ids())
    for text, id in (("other words", content_id(b"2")), ("words at last", content_id(b"0"))):
        assert now[id].text_vector == pytest.approx(newer.embed_texts([text])[0])
    assert now[content_id(b"3")].text_vector is None
    assert now[content_id(b"4")].text_vector == pytest.approx(newer.embed_texts(["aaaa"])[0])
    assert reindex(old, newer, new).updated == 0


def test_images_that_are_gone_or_changed_are_reported(
    both: tuple[Collection, Collection], folder: Path
) -> None:
    old, new = both
    (folder / "1.jpg").unlink()
    (folder / "2.jpg").write_bytes(b"other")
    report = reindex(old, Newer(), new)
    assert report.embedded == 4
    reasons = dict(report.lost)
    assert "cannot be read: No such file" in reasons[str(folder / "1.jpg")]
    assert "contains another image now" in reasons[str(folder / "2.jpg")]


def test_a_copy_replaces_a_file_that_is_gone(
    both: tuple[Collection, Collection], folder: Path
) -> None:
    old, new = both
    id = content_id(b"1")
    record = old.get([id])[id]
    copy = folder / "copy.bin"
    copy.write_bytes(b"1")
    files = {**record.origin.files, str(copy): ""}
    old.upsert([replace(record, origin=replace(record.origin, files=files))])
    (folder / "1.jpg").unlink()
    assert reindex(old, Newer(), new).lost == []


def test_an_image_that_the_newer_model_refuses_stops_no_other(
    both: tuple[Collection, Collection], folder: Path, embedder: Any
) -> None:
    old, new = both
    (folder / "odd.jpg").write_bytes(b"odd")
    ingest([FileSource([folder])], embedder, old)
    report = reindex(old, Newer(), new)
    assert report.embedded == 6
    assert report.lost == [(str(folder / "odd.jpg"), "this is not an image for the newer model")]


def test_a_collection_of_yet_another_model_is_refused(
    both: tuple[Collection, Collection], embedder: Any
) -> None:
    old, new = both
    with pytest.raises(SearchError, match="was filled by model model-two"):
        reindex(old, embedder, new)


@pytest.fixture
def staged(tmp_path: Path, folder: Path, embedder: Any) -> Iterator[tuple[Collection, Collection]]:
    """A collection, opened by its public name, and the staged collection of the newer model."""
    uri = str(tmp_path / "b.db")
    about: dict[str, Any] = {"embed_dim": 8, "fingerprint": "model-two", "staged": True}
    with (
        Collection.open(uri, embed_dim=16, fingerprint="model-one", create=True) as old,
        Collection.open(uri, create=True, **about) as new,
    ):
        ingest([FileSource([folder])], embedder, old)
        yield old, new


class Busy(Newer):
    """The newer model, with other writers that are busy while it embeds its first image."""

    def __init__(self, write: Callable[[], object]) -> None:
        super().__init__()
        self._write = iter([write])

    def embed_images(self, images: Any) -> Float32[np.ndarray, "N E"]:
        next(self._write, lambda: None)()
        return super().embed_images(images)


def switched(new: Collection) -> Callable[[Any], bool]:
    """Switch the public name to the collection."""

    def switch(report: Any) -> bool:
        connection = Connection(new.info.uri, create=False)
        point_alias(connection, "pictures", new.own_name)
        connection.close()
        return True

    return switch


def test_what_is_written_meanwhile_is_copied_as_well(
    staged: tuple[Collection, Collection], folder: Path, embedder: Any
) -> None:
    old, new = staged
    gone, changed, added = folder / "1.jpg", folder / "2.txt", folder / "7.jpg"

    def write() -> None:
        gone.unlink()
        changed.write_text("other words")
        added.write_bytes(b"7")
        ingest([FileSource([folder])], embedder, old, prune=True)

    newer = Busy(write)
    report = reindex(old, newer, new, batch_size=2, switch=switched(new))
    assert report.caught_up == 2
    assert new.get(new.ids()) == old.get(old.ids())
    (record,) = new.get([content_id(b"2")]).values()
    assert record.text_vector == pytest.approx(newer.embed_texts(["other words"])[0])


def test_a_write_between_the_last_comparison_and_the_switch_is_copied(
    staged: tuple[Collection, Collection], folder: Path, embedder: Any
) -> None:
    old, new = staged
    switch = switched(new)

    def write_and_switch(report: Any) -> bool:
        (folder / "7.jpg").write_bytes(b"7")
        ingest([FileSource([folder])], embedder, old)
        return switch(report)

    report = reindex(old, Newer(), new, switch=write_and_switch)
    assert (report.embedded, report.caught_up) == (7, 1)
    assert new.get(new.ids()) == old.get(old.ids())


def test_what_others_write_to_the_new_collection_after_the_switch_is_kept(
    staged: tuple[Collection, Collection], folder: Path, embedder: Any
) -> None:
    old, new = staged
    switch = switched(new)
    one, two = (old.get([content_id(data)])[content_id(data)] for data in (b"1", b"2"))

    def write_and_switch(report: Any) -> bool:
        old.upsert([replace(one, caption="before"), replace(two, caption="before")])
        switch(report)
        (there,) = new.get([one.id]).values()
        with Collection.open(new.info.uri) as by_name:
            by_name.upsert([replace(there, caption="after")])
        return True

    reindex(old, Newer(), new, switch=write_and_switch)
    found = new.get([one.id, two.id])
    assert (found[one.id].caption, found[two.id].caption) == ("after", "before")
