"""Edits of people: they win over each kind of index run, and an undo restores what was before."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ArgumentError, SearchError
from coca.search.edits import edited, undone
from coca.search.ingest.migrate import migrate
from coca.search.ingest.reindex import reindex
from coca.search.ingest.sources import FileSource
from coca.search.query.engine import SearchEngine
from coca.search.records import FAVOURITE, Origin, Record
from coca.search.search_options import SearchOptions
from coca.search.store import Store
from coca.search.stores import open_collection
from coca.workflows.collections.caption_export import export_captions
from store_changes import patch
from tiny_ingest import ingest

OURS = ("our dog Bella", ("dog", "beach"), ["Anna"])
BEFORE = ("a photo of one", ("given",), None)


@pytest.fixture(params=["sqlite", pytest.param("lite", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "pictures.db")
    pytest.importorskip("milvus_lite")
    return f"milvus-lite:{tmp_path / 'lite.db'}"


def write(images: Sequence[bytes]) -> list[str]:
    return [f"a photo of {image.decode()}" for image in images]


def texts_of(record: Record) -> tuple[Any, ...]:
    return record.caption, record.tags, record.metadata.get("people")


def test_edits_win_over_every_kind_of_run(store: Store, embedder: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "here"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"one")
    (folder / "a.json").write_text('{"tags": ["given"]}')
    collection = store.create("pictures", embed_dim=16, fingerprint=embedder.fingerprint)
    engine = SearchEngine(embedder, collection)

    def run() -> Record:
        ingest([FileSource([folder])], embedder, collection, captioner=write, prune=True)
        ((record,),) = collection.pages()
        return record

    def sidecar() -> None:
        assert export_captions(collection).written == [str(folder / "a.jpg.xmp")]

    def later() -> None:
        (folder / "a.json").write_text('{"tags": ["given"], "year": 2024}')

    def rename() -> None:
        (folder / "a.jpg").rename(folder / "b.jpg")

    before = run()
    assert texts_of(before) == BEFORE
    ours: Any = {"caption": OURS[0], "tags": OURS[1], "metadata": {"people": OURS[2]}, "time": 7}
    engine.edit([before.id], **ours)
    query = embedder.embed_texts([OURS[0]])
    (hit,) = collection.nearest(query, SearchOptions(on="text"))[0]
    assert (round(hit.score, 5), hit.caption_source) == (1, "given")
    unedited = {"caption": BEFORE[0], "tags": ["given"], "metadata.people": None}
    assert hit.unedited == unedited | {"time": before.time}
    steps: list[Callable[[], Any]] = [
        lambda: None,
        lambda: os.utime(folder / "a.jpg", (1, 1)),
        later,
        sidecar,
        (folder / "a.jpg.xmp").unlink,
        sidecar,
        lambda: (folder / "a.txt").write_text("a photo of one"),
        (folder / "a.txt").unlink,
        lambda: patch(collection, {before.id: {"origin": replace(run().origin, read=0)}}),
        rename,
    ]
    for step in steps:
        step()
        record = run()
        assert (texts_of(record), record.unedited) == (OURS, hit.unedited)
        assert (record.time, record.date_source) == (7, "taken")
        np.testing.assert_array_equal(record.text_vector, query[0])
    (restored,) = engine.undo([record.id])
    assert (texts_of(restored), restored.caption_source) == (BEFORE, "model")
    assert (restored.time, restored.date_source) == (before.time, "file")
    assert texts_of(run()) == BEFORE
    engine.edit([record.id], **ours)
    # The generated caption was one of other bytes.
    (folder / "b.jpg").write_bytes(b"two")
    assert texts_of(run()) == OURS
    assert run().unedited == {**hit.unedited, "caption": ""}
    other = type(embedder)("model-two", 8)
    assert reindex(store, "pictures", other).is_promoted
    with open_collection(
        str(tmp_path / "copy.db"), embed_dim=8, fingerprint="model-two", create=True
    ) as copy:
        migrate(store.open("pictures"), copy)
        for read in (store.open("pictures"), copy):
            ((record,),) = read.pages()
            assert texts_of(record) == OURS
            np.testing.assert_array_equal(record.text_vector, other.embed_texts([OURS[0]])[0])


def test_a_source_that_people_change_later_wins(
    collection: Any, embedder: Any, tmp_path: Path
) -> None:
    if "lite" in collection.info.uri:
        pytest.skip("the laws of merging are those of any store")
    (tmp_path / "a.jpg").write_bytes(b"one")
    (tmp_path / "a.txt").write_text("old")
    engine = SearchEngine(embedder, collection)

    def run() -> Record:
        ingest([FileSource([tmp_path])], embedder, collection, captioner=write)
        ((record,),) = collection.pages(vectors=False)
        return record

    id = run().id
    engine.edit([id], caption="ours", tags=["mine"])
    (tmp_path / "a.txt").write_text("new")
    assert (run().caption, run().tags, run().unedited) == ("new", ("mine",), {"tags": []})
    # One that is emptied is not generated again, nor is its copy captioned by it.
    engine.edit([id], caption="")
    (tmp_path / "a.txt").unlink()
    assert (run().caption, run().unedited["caption"]) == ("", "new")
    shutil.copy(tmp_path / "a.jpg", tmp_path / "copy.jpg")
    ingest([FileSource([tmp_path])], embedder, collection, captioner=write)
    captions = {one.caption for page in collection.pages() for one in page}
    assert captions == {"", "a photo of one"}
    with pytest.raises(SearchError, match="no record 'absent'"):
        engine.edit([id, "absent"], caption="x")
    with pytest.raises(ArgumentError, match="'path' cannot be edited"):
        engine.undo([id], ["path"])
    engine.edit([id], metadata={"n": "x" * 40_000})
    engine.undo([id])
    patch(collection, {id: {"metadata": {"n": "x" * 40_000}}})
    with pytest.raises(SearchError, match="record of edits has"):
        engine.edit([id], metadata={"n": "y"})


def test_a_sidecar_that_was_changed_before_an_edit_does_not_end_it(
    collection: Any, embedder: Any, tmp_path: Path
) -> None:
    if "lite" in collection.info.uri:
        pytest.skip("the laws of merging are those of any store")
    (tmp_path / "a.jpg").write_bytes(b"one")
    engine, sidecar = SearchEngine(embedder, collection), tmp_path / "a.txt"

    def run(text: str, age_s: float) -> str:
        sidecar.write_text(text)
        changed_at = time.time() - age_s
        os.utime(sidecar, (changed_at, changed_at))
        os.utime(tmp_path / "a.jpg", (1, 1))
        ingest([FileSource([tmp_path])], embedder, collection)
        ((record,),) = collection.pages(vectors=False)
        return str(record.caption)

    assert run("first", 100) == "first"
    engine.edit(collection.ids(), caption="ours")
    # It was changed before the edit, and is indexed after it.
    assert run("second", 10) == "ours"
    assert run("third", -10) == "third"
    # Values that a run found before stay known.
    engine.edit(collection.ids(), caption="ours again")
    assert run("fourth", 10) == run("fourth", -10) == "ours again"
    engine.undo(collection.ids())
    assert run("fifth", -10) == "fifth"


texts = st.text(max_size=20)
tags = st.lists(texts, max_size=3, unique=True)
edits = st.fixed_dictionaries(
    {},
    optional={
        "caption": texts,
        "tags": tags,
        "time": st.integers(-9, 9),
        "metadata": st.dictionaries(st.sampled_from("ab"), st.none() | texts | st.integers()),
    },
)


@given(texts, st.booleans(), tags, st.booleans(), st.lists(edits, max_size=4))
def test_an_undo_restores_exactly(
    caption: str, captioned: bool, tags: list[str], favourite: bool, changes: list[dict[str, Any]]
) -> None:
    marks = (FAVOURITE,) if favourite else ()
    before = Record(
        id="a",
        path="a.jpg",
        caption=caption,
        tags=(*tags, *marks),
        metadata={"a": "x"},
        vector=np.ones(1, np.float32),
        time=5,
        origin=Origin(captioned=captioned, dated="file"),
    )
    record = before
    for change in changes:
        if "tags" in change:
            change = change | {"tags": [*change["tags"], *marks]}
        record = edited(record, **change)
        for field, value in change.items():
            assert field == "metadata" or getattr(record, field) == (
                tuple(value) if field == "tags" else value
            )
    assert undone(record) == before
    for field in record.origin.edits:
        record = undone(record, [field])
    assert record == before
