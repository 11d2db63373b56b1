"""Reindex with another model: a staged collection takes the name of the old one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import DataError, SearchError
from coca.core.progress import show_progress
from coca.search.ingest import reindex as module
from coca.search.ingest.reindex import ReindexReport, reindex
from coca.search.ingest.sources import FileSource
from coca.search.records import Record, record_id
from coca.search.store import Collection, Store
from store_changes import patch
from tiny_ingest import ingest


class Newer:
    """Another model, with another vector size; others may write while it embeds first."""

    fingerprint, embed_dim = "model-two", 8

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.embedded: list[bytes] = []
        self._meanwhile = [meanwhile]

    def embed_images(self, images: Any) -> Float32[np.ndarray, "N E"]:
        while self._meanwhile:
            self._meanwhile.pop()()
        if any(image.startswith(b"odd") for image in images):
            raise DataError("this is not an image for the newer model", reason="not_an_image")
        self.embedded.extend(images)
        return np.stack([np.eye(8, dtype=np.float32)[image[0] % 8] for image in images])

    def embed_texts(self, texts: Any) -> Float32[np.ndarray, "N E"]:
        return np.stack([np.eye(8, dtype=np.float32)[len(text) % 8] for text in texts])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images with captions of their number of letters, and a copy of the last one."""
    images = tmp_path / "images"
    images.mkdir()
    for n in range(6):
        (images / f"{n}.jpg").write_bytes(b"%d" % n)
        (images / f"{n}.txt").write_text("a" * n)
    (images / "copy.jpg").write_bytes(b"5")
    return images


@pytest.fixture
def old(folder: Path, collection: Collection, embedder: Any) -> Collection:
    ingest([FileSource([folder])], embedder, collection)
    return collection


def all_of(collection: Collection) -> dict[str, Record]:
    return collection.get(collection.ids())


def check(store: Store, before: dict[str, Record]) -> None:
    """Check that the collection has these records, with the vectors of the newer model."""
    now = store.open("pictures")
    assert (now.info.fingerprint, now.info.embed_dim) == ("model-two", 8)
    after = all_of(now)
    assert after == before
    for id, record in after.items():
        assert (record.text_vector is None) == (before[id].text_vector is None)
        if record.text_vector is not None:
            assert record.text_vector.argmax() == len(record.caption) % 8
        data = Path(record.path).read_bytes() if record.path else b""
        assert record.vector.argmax() == (data[0] if data else len(record.caption)) % 8
    assert [info.collection for info in store.list()] == ["pictures"]


def test_everything_but_the_vectors_stays(
    store: Store, old: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    patch(old, {old.ids()[0]: {"hidden": True, "tags": ("x",)}})
    vector = np.eye(16, dtype=np.float32)[0]
    old.upsert([Record(id="text", path="", caption="four", vector=vector, text_vector=vector)])
    before, newer = all_of(old), Newer()
    with show_progress():
        report = reindex(store, "pictures", newer, batch_size=4)
    assert report == ReindexReport(embedded=8, is_promoted=True)
    assert "embed images again 8/8" in capsys.readouterr().err
    # Copies are embedded once.
    assert sorted(newer.embedded) == [b"%d" % n for n in range(6)]
    check(store, before)


def test_an_interrupted_run_goes_on_and_sees_what_changed(
    store: Store, old: Collection, folder: Path, embedder: Any
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    class Interrupted(Newer):
        def embed_texts(self, texts: Any) -> Float32[np.ndarray, "N E"]:
            if len(self.embedded) > 4:
                interrupt()
            return super().embed_texts(texts)

    with pytest.raises(KeyboardInterrupt):
        reindex(store, "pictures", Interrupted(), batch_size=2)
    assert store.open("pictures").info.fingerprint == "model-one"
    (folder / "0.jpg").unlink()
    (folder / "1.txt").write_text("other words")
    ingest([FileSource([folder])], embedder, old, prune=True)
    before, newer = all_of(old), Newer()
    report = reindex(store, "pictures", newer, batch_size=2)
    # A record of new words is embedded again, and its image is not.
    assert (report.embedded, report.kept, len(newer.embedded)) == (4, 2, 2)
    check(store, before)


def test_images_that_are_gone_or_changed_or_refused_are_reported(
    store: Store, old: Collection, folder: Path, embedder: Any
) -> None:
    (folder / "odd.jpg").write_bytes(b"odd")
    ingest([FileSource([folder])], embedder, old)
    before = all_of(old)
    (folder / "1.jpg").unlink()
    (folder / "2.jpg").write_bytes(b"other")
    # A copy of its bytes is left.
    (folder / "5.jpg").unlink()
    report = reindex(store, "pictures", Newer())
    assert (report.embedded, report.is_promoted) == (5, False)
    reasons = {Path(path).name: reason for path, reason in report.lost}
    assert list(reasons) == ["1.jpg", "2.jpg", "odd.jpg"]
    assert "cannot be read: No such file" in reasons["1.jpg"]
    assert "contains another image now" in reasons["2.jpg"]
    assert reasons["odd.jpg"] == "this is not an image for the newer model"
    assert store.open("pictures").info.fingerprint == "model-one"
    report = reindex(store, "pictures", Newer(), skip_missing=True)
    assert (report.embedded, report.kept, report.is_promoted) == (0, 5, True)
    left = all_of(store.open("pictures"))
    lost = {record_id(str(folder / name)) for name in reasons}
    assert left == {id: record for id, record in before.items() if id not in lost}


def test_what_is_written_meanwhile_is_embedded_as_well(
    store: Store, old: Collection, folder: Path, embedder: Any
) -> None:
    def write() -> None:
        (folder / "1.jpg").unlink()
        (folder / "2.txt").write_text("other words")
        (folder / "7.jpg").write_bytes(b"7")
        ingest([FileSource([folder])], embedder, store.open("pictures"), prune=True)

    report = reindex(store, "pictures", Newer(write), batch_size=2)
    assert (report.caught_up, report.lost, report.is_promoted) == (3, [], True)
    names = {Path(record.path).name for record in all_of(store.open("pictures")).values()}
    assert names == {"0.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "7.jpg", "copy.jpg"}


def test_a_write_between_the_last_comparison_and_the_promotion_is_kept(
    store: Store, old: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote, due = store.promote, [{id: {"tags": ("late",)}} for id in old.ids()[:1]]

    def late(*args: Any, **settings: Any) -> bool:
        if due:
            patch(old, due.pop())
        return promote(*args, **settings)

    monkeypatch.setattr(store, "promote", late)
    report = reindex(store, "pictures", Newer())
    assert (report.caught_up, report.is_promoted) == (1, True)
    tags = [record.tags for record in all_of(store.open("pictures")).values()]
    assert tags.count(("late",)) == 1


def test_a_writer_with_the_old_vectors_is_refused_afterwards(
    store: Store, old: Collection, make_record: Callable[..., Record]
) -> None:
    reindex(store, "pictures", Newer())
    with pytest.raises(SearchError, match="has the vectors of another model now"):
        old.upsert([make_record("late")])


def test_a_collection_that_never_rests_is_reported(
    store: Store, old: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_PASSES", 3)
    ids, count = old.ids(), iter(range(100))

    class Restless(Newer):
        def embed_texts(self, texts: Any) -> Float32[np.ndarray, "N E"]:
            caption = f"c{next(count)}"
            patch(old, {id: {"caption": caption} for id in ids})
            return super().embed_texts(texts)

    patch(old, {id: {"text_vector": np.eye(16, dtype=np.float32)[0], "caption": "c"} for id in ids})
    with pytest.raises(SearchError, match="changes faster than it is embedded"):
        reindex(store, "pictures", Restless(), batch_size=2)
