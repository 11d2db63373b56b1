"""Indexing workflow: sources of all kinds, options, and when the model is loaded."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import coca
from coca.core.errors import ConfigError, DataError, SearchError
from coca.core.progress import show_progress
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.predict.onnx_predictor import open_exported
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.image_file import read_image
from coca.search.ingest.ingest_report import BadImage, IngestReport
from coca.search.ingest.sample_source import SampleSource
from coca.search.ingest.sources import FileSource
from coca.search.mining.zero_shot import add_classes
from coca.search.perceptual_hash import perceptual_hash
from coca.search.records import FAVOURITE, CollectionInfo, Record, content_id
from coca.search.stores import open_collection
from coca.workflows.collections.class_prompts import open_classes
from coca.workflows.collections.index import (
    bad_image_log,
    index_images,
    index_sources,
)
from store_changes import patch
from tiny_data import image_bytes


@pytest.mark.slow
def test_a_photo_of_81_megapixels_is_indexed_with_its_full_size(
    model: TorchPredictor, tmp_path: Path, uri: str
) -> None:
    path = tmp_path / "photos" / "large.jpg"
    path.parent.mkdir()
    Image.radial_gradient("L").resize((10_400, 7_800)).save(path)
    assert index_images([path.parent], model, uri=uri, captions=True).report.added == 1
    with open_collection(uri) as collection:
        (indexed,) = collection.get(collection.ids()).values()
        coca.SearchEngine(model, collection).add([path.read_bytes()])
        both = list(collection.get(collection.ids()).values())
    assert [(one.width, one.height) for one in both] == [(10_400, 7_800)] * 2
    assert {one.perceptual_hash for one in both} == {indexed.perceptual_hash}
    np.testing.assert_allclose(both[0].vector, both[1].vector, atol=1e-6)


def test_tars_tables_and_folders_fill_one_collection_and_a_second_run_does_nothing(
    model: TorchPredictor, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardWriter(tmp_path / "shards", samples_per_shard=2) as writer:
        for n in range(5):
            writer.write(Sample(f"k{n}", image_bytes(n), (f"number {n}",)))
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in (4, 5, 6):
        (photos / f"{n}.png").write_bytes(image_bytes(n))
    table = tmp_path / "table.csv"
    table.write_text("image,caption\nphotos/6.png,six\n")
    sources = [photos, tmp_path / "shards", table]
    first = index_images(sources, model, uri=uri, captions=False)
    # 4 is in a folder and a tar, 6 in a folder and a table: two records each.
    assert first.collection.count == 9
    assert first.report == IngestReport(added=7, duplicates=2)
    with open_collection(uri) as collection:
        hashes = {
            one.content: one.perceptual_hash for one in collection.get(collection.ids()).values()
        }
    expected = [perceptual_hash(read_image(image_bytes(n))) for n in range(7)]
    assert hashes == {content_id(image_bytes(n)): expected[n] for n in range(7)}
    monkeypatch.setattr(TorchPredictor, "describe", lambda *_, **_2: pytest.fail("it embeds again"))
    again = index_images(sources[1:2], model, uri=uri, captions=False)
    assert again.report == IngestReport(unchanged=5)
    # A tar that is packed again with fewer samples loses its records only when asked.
    for path in writer.paths[1:]:
        path.unlink()
    shorter = index_images(sources[1:2], model, uri=uri, captions=False, prune=True)
    assert shorter.report == IngestReport(unchanged=2, removed=3)
    assert shorter.collection.count == 6


def test_bad_images_are_listed_once_and_too_many_stop_the_run(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    bad = [BadImage(f"{n}.jpg", "truncated", f"{n}.jpg is truncated") for n in range(3)]
    for _ in range(2):
        bad_image_log(path, 0.01)(100, bad)
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["key"] for line in listed] == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(DataError, match="3 truncated"):
        bad_image_log(None, 0.002)(100, bad)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of three images: `a` with a caption next to it, and a table that names all."""
    folder = tmp_path / "album"
    folder.mkdir()
    for n, name in enumerate("abc"):
        (folder / f"{name}.png").write_bytes(image_bytes(n))
    (folder / "a.txt").write_text("near a")
    (folder / "table.csv").write_text("image,caption,year\na.png,table a,1\nb.png,table b,2\n")
    return folder


def records(uri: str) -> list[Record]:
    """Read all records, sorted by path and caption."""
    with open_collection(uri) as collection:
        found = [record for page in collection.pages(vectors=False) for record in page]
    return sorted(found, key=lambda record: (record.path, record.caption))


def captions(uri: str) -> list[tuple[str, str]]:
    return [(Path(record.path).stem, record.caption) for record in records(uri)]


@pytest.mark.parametrize("order", ["together", "folder first", "table first"])
def test_a_table_and_the_folder_of_its_images_have_records_of_their_own(
    model: TorchPredictor, uri: str, album: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = album / "table.csv"
    rounds: list[list[Path]] = [[album, table]] if order == "together" else [[album], [table]]
    if order == "table first":
        rounds.reverse()
    for sources in rounds:
        index_images(sources, model, uri=uri, captions=False)
    spoken = [("a", "near a"), ("a", "table a"), ("b", ""), ("b", "table b"), ("c", "")]
    assert captions(uri) == spoken
    one, other = records(uri)[:2]
    assert (one.album, one.metadata, one.content) == (str(album), {}, other.content)
    assert other.metadata == {"year": 1}
    with monkeypatch.context() as patch:
        for kind in (FileSource, SampleSource):
            patch.setattr(kind, "read", lambda _, entry: pytest.fail(f"{entry} was read"))
        for sources in ([album], [table], [album, table], [table, album]):
            again = index_images(sources, model, uri=uri, captions=False, prune=True)
            assert again.report == IngestReport(unchanged=again.report.good)
    # Each follows what changes, and a row that leaves its table.
    (album / "c.txt").write_text("near c")
    table.write_text("image,caption,year\na.png,new a,1\n")
    for sources in rounds:
        index_images(sources, model, uri=uri, captions=False, prune=True)
    assert captions(uri) == [("a", "near a"), ("a", "new a"), ("b", ""), ("c", "near c")]


def test_new_metadata_of_a_source_keeps_favourites_and_hidden_records(
    model: TorchPredictor, uri: str, album: Path
) -> None:
    index_images([album], model, uri=uri, captions=False)
    with open_collection(uri) as collection:
        patch(collection, {id: {"hidden": True, "tags": (FAVOURITE,)} for id in collection.ids()})
    (album / "b.json").write_text(json.dumps({"captions": ["new b"], "tags": ["t"], "year": 1}))
    report = index_images([album], model, uri=uri, captions=False, prune=True).report
    assert report == IngestReport(updated=1, unchanged=2)
    a, b, _ = records(uri)
    assert (a.hidden, a.metadata, a.tags) == (True, {}, (FAVOURITE,))
    assert (b.hidden, b.metadata, b.tags) == (True, {"year": 1}, ("t", FAVOURITE))
    # A hidden record whose file is gone is removed.
    (album / "a.png").unlink()
    assert index_images([album], model, uri=uri, captions=False, prune=True).report.removed == 1


def test_a_file_that_only_a_table_still_names_is_pruned(
    model: TorchPredictor, tmp_path: Path, uri: str, album: Path
) -> None:
    table = album / "table.csv"
    index_images([table], model, uri=uri, captions=False)
    (album / "b.png").unlink()
    kept = index_images([table], model, uri=uri, captions=False).report
    assert (kept.removed, len(kept.bad)) == (0, 1)
    assert index_images([table], model, uri=uri, captions=False, prune=True).report.removed == 1
    assert captions(uri) == [("a", "table a")]
    # A whole folder that is gone may be a drive that is not mounted.
    outside = tmp_path / "table.csv"
    outside.write_text(f"image,caption,year\n{album / 'a.png'},table a,1\n")
    index_images([outside], model, uri=uri, captions=False)
    shutil.move(album, tmp_path / "elsewhere")
    kept = index_images([outside], model, uri=uri, captions=False, prune=True).report
    assert (kept.removed, len(kept.bad)) == (0, 1)
    # Nor is an empty one where it would be mounted.
    album.mkdir()
    for trust in (False, True):
        pruned = index_images(
            [outside], model, uri=uri, captions=False, prune=True, prune_empty=trust
        )
        assert pruned.report.removed == int(trust)


def test_records_of_a_table_move_with_its_images(
    model: TorchPredictor, tmp_path: Path, uri: str, album: Path
) -> None:
    index_images([album, album / "table.csv"], model, uri=uri, captions=False)
    before = captions(uri)
    moved = album.rename(tmp_path / "moved")
    for source, count in ((moved, 3), (moved / "table.csv", 2)):
        assert index_images([source], model, uri=uri, captions=False).report.updated == count
        assert index_images([source], model, uri=uri, captions=False).report.unchanged == count
    assert captions(uri) == before
    assert {Path(record.path).parent for record in records(uri)} == {moved}


BATCH = 64


@pytest.mark.slow
def test_ctrl_c_reports_what_is_indexed_and_the_same_call_goes_on(
    model: TorchPredictor, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(2 * BATCH + 1):
        (folder / f"{n:04}.png").write_bytes(image_bytes(n))
    embed, batches = model.describe, iter([False, True])

    def interrupted(images: Any, **options: Any) -> Any:
        if images and next(batches, False):
            raise KeyboardInterrupt
        return embed(images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model, "describe", interrupted)
        with pytest.raises(KeyboardInterrupt) as stopped:
            index_images([folder], model, uri=uri, captions=False)
    assert str(stopped.value) == (
        f"stopped by Ctrl-C: {BATCH} images are in collection 'pictures' of {uri}; the "
        "same command goes on from there"
    )
    report = index_images([folder], model, uri=uri, captions=False).report
    assert (report.unchanged, report.added) == (BATCH, BATCH + 1)


def test_an_unknown_setting_is_refused_and_not_ignored(model: TorchPredictor, album: Path) -> None:
    wrong: Any = {"collections": "mine"}
    with pytest.raises(ConfigError, match="is unknown; did you mean 'collection'"):
        index_images([album], model, uri="none.db", **wrong)
    with pytest.raises(ConfigError, match="collections = 'mine' is unknown"):
        index_sources([], model, uri="none.db", **wrong)


def test_a_model_is_loaded_for_the_first_new_image_only(
    model: TorchPredictor, tmp_path: Path, uri: str, album: Path
) -> None:
    given: list[CollectionInfo | None] = []
    loaded: list[str] = []

    def choose(info: CollectionInfo | None) -> Callable[[], TorchPredictor]:
        given.append(info)

        def load() -> TorchPredictor:
            loaded.append("loaded")
            return model

        return load

    def run(*sources: Path) -> IngestReport:
        return index_images(sources, choose, uri=uri).report

    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "absent")
    assert not given
    assert run(album).added == 3
    assert loaded.pop() == "loaded"
    assert run(album) == IngestReport(unchanged=3)
    album.rename(tmp_path / "moved")
    shutil.copy(tmp_path / "moved" / "b.png", tmp_path / "moved" / "copy.png")
    assert run(tmp_path / "moved") == IngestReport(updated=3, duplicates=1)
    assert not loaded
    assert [info and info.fingerprint for info in given] == [None, *[model.fingerprint] * 2]
    (tmp_path / "moved" / "c.png").write_bytes(image_bytes(7))
    assert run(tmp_path / "moved").updated == 1
    assert loaded == ["loaded"]


def test_images_do_not_go_among_classes(model: TorchPredictor, uri: str, album: Path) -> None:
    with open_classes(model, uri, create=True) as classes:
        add_classes(classes, model, ["cat", "dog"], templates=["{}"])
        name = classes.info.collection
    with pytest.raises(SearchError, match="contains classes or other texts"):
        index_images([album], model, uri=uri, collection=name, captions=False)
    with open_classes(model, uri) as classes:
        assert classes.count() == 2


def test_questions_of_a_table_and_their_answers_stay_with_the_image(
    model: TorchPredictor, uri: str, album: Path
) -> None:
    table = album / "questions.jsonl"
    rows = [
        {"image": "a.png", "question": "what?", "answers": ["a", "b"], "year": 1},
        {"image": "a.png", "question": "where?", "answer": "here", "year": 1},
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    index_images([table], model, uri=uri, captions=False)
    (record,) = records(uri)
    assert record.metadata == {
        "year": 1,
        "questions": [
            {"question": "what?", "answers": ["a", "b"]},
            {"question": "where?", "answers": ["here"]},
        ],
    }


@pytest.mark.slow
def test_an_unchanged_run_imports_no_library_of_models(
    model: TorchPredictor, uri: str, album: Path, tmp_path: Path
) -> None:
    index_images([album], model, uri=uri)
    program = f"""
import sys
import zipfile
from coca.workflows.collections.index import index_images
import coca.workflows.collections.watch, coca.server.app
result = index_images([{str(album)!r}], lambda info: None, uri={uri!r})
assert result.report.unchanged == 3
sys.exit(bool({{"torch", "onnxruntime"}} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_notebook_indexes_a_folder_and_adds_images(
    model: TorchPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photos" / "0.png"
    photo.parent.mkdir()
    photo.write_bytes(image_bytes(0))
    path = tmp_path / "photos.db"
    with show_progress():
        assert coca.index(photo.parent, path, model=model).report.added == 1
    assert "index images 1/1" in capsys.readouterr().err
    with coca.open_store(path) as store:
        collection = store.create("mine", embed_dim=model.embed_dim, fingerprint=model.fingerprint)
        assert len(collection) == 0
        assert collection
        engine = coca.SearchEngine(model, collection)
        pixels = read_image(image_bytes(1))
        images = [str(photo), pixels, np.asarray(pixels), image_bytes(2)]
        details = [{"n": n} for n in range(4)]
        ids = engine.add(images, captions=["zero", "one", "one", ""], metadata=details)
        assert ids == engine.add(images, captions=["zero", "one", "one", ""], metadata=details)
        # Pixels in memory have one content, as an image of PIL and as an array.
        assert [ids.index(id) for id in ids] == [0, 1, 1, 3]
        assert len(collection) == 3
        records = collection.get(ids)
        assert [records[id].metadata["n"] for id in ids] == [0, 2, 2, 3]
        # The record of a file is that of `coca.index`.
        indexed = store.open("pictures").get(ids[:1])[ids[0]]
        assert records[ids[0]].content == indexed.content
        assert records[ids[0]].perceptual_hash == indexed.perceptual_hash
        np.testing.assert_allclose(records[ids[0]].vector, indexed.vector, atol=1e-6)
        assert engine.search(image=Image.open(photo), limit=1)[0].path == str(photo)
        for shown in (model, store, collection, engine):
            assert " object at 0x" not in repr(shown)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_an_uncertain_caption_is_not_stored(tmp_path: Path, uri: str, runtime: str) -> None:
    names = {"04546cc5e537d7cd": "a barn", "38287d2e5a4a9a57": "carbonara"}
    with zipfile.ZipFile(Path(coca.__file__).parent / "workflows/demo/photos.zip") as archive:
        for member in archive.namelist():
            if any(name in member for name in names):
                archive.extract(member, tmp_path / "photos")
    model = coca.load("everyday", device="cpu") if runtime == "torch" else open_exported("everyday")
    index_images([tmp_path / "photos"], model, uri=uri)
    assert {text for _, text in captions(uri)} == {"a barn", "a meal"}
    # A second run captions nothing again, with any least certainty.
    assert index_images([tmp_path / "photos"], model, uri=uri, certainty=0.0).report.added == 0
    every = str(tmp_path / "every.db")
    index_images([tmp_path / "photos"], model, uri=every, certainty=0.0)
    assert {text for _, text in captions(every)} == {*names.values()}
    writer = str(tmp_path / "writer.db")
    index_images([tmp_path / "photos"], model, uri=writer, captions_from=model)
    assert {text for _, text in captions(writer)} == {"a barn", "a meal"}
