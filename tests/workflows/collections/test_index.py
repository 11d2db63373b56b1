import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError, DataError, SearchError
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.inference.predictor import Predictor
from coca.search.ingest.ingest_report import BadImage, IngestReport
from coca.search.ingest.sources import FileSource
from coca.search.milvus.collection import Collection
from coca.search.mining.zero_shot import add_classes
from coca.search.records import FAVOURITE, HIDDEN, CollectionInfo, content_id
from coca.workflows.collections.class_prompts import open_classes
from coca.workflows.collections.image_sources import SampleSource
from coca.workflows.collections.index import BadImageLog, index_images, index_sources
from tiny_data import image_bytes


def test_tars_tables_and_folders_fill_one_collection_and_a_second_run_does_nothing(
    model: Predictor, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
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
    # 4 is in a folder and a tar, 6 in a folder and a table: one record each.
    assert first.collection.count == 7
    assert first.report == IngestReport(added=7, duplicates=1, unchanged=0, updated=1)
    monkeypatch.setattr(Predictor, "embed_prepared", lambda *_: pytest.fail("it embeds again"))
    again = index_images(sources[1:2], model, uri=uri, captions=False)
    assert again.report == IngestReport(unchanged=5)
    # A tar that is packed again with fewer samples loses its records only when asked.
    for path in writer.paths[1:]:
        path.unlink()
    shorter = index_images(sources[1:2], model, uri=uri, captions=False, prune=True)
    assert shorter.report == IngestReport(unchanged=2, removed=2)
    assert shorter.collection.count == 5


def test_bad_images_are_listed_once_and_too_many_stop_the_run(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    bad = [BadImage(f"{n}.jpg", "truncated", f"{n}.jpg is truncated") for n in range(3)]
    for _ in range(2):
        BadImageLog(path, 0.01).add(100, bad)
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["key"] for line in listed] == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(DataError, match="3 truncated"):
        BadImageLog(None, 0.002).add(100, bad)


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


def captions(uri: str) -> dict[str, str]:
    with Collection.open(uri) as collection:
        return {Path(path).stem: caption for _, path, caption, _ in collection.origins()}


@pytest.mark.parametrize("order", ["together", "folder first", "table first"])
def test_a_table_and_the_folder_of_its_images_leave_each_others_captions(
    model: Predictor, uri: str, album: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = album / "table.csv"
    rounds: list[list[Path]] = [[album, table]] if order == "together" else [[album], [table]]
    if order == "table first":
        rounds.reverse()
    for sources in rounds:
        index_images(sources, model, uri=uri, captions=False)
    spoken = {"a": "table a", "b": "table b", "c": ""}
    assert captions(uri) == spoken
    with Collection.open(uri) as collection:
        for (record,) in collection.read_through('path like "%a.png"'):
            assert (record.album, record.metadata) == (str(album), {"year": 1})
            assert record.time == int((album / "a.png").stat().st_mtime)
    # The folder learns that the table came; then nothing is read by any of them.
    index_images([album], model, uri=uri, captions=False)
    with monkeypatch.context() as patch:
        for kind in (FileSource, SampleSource):
            patch.setattr(kind, "read", lambda _, entry: pytest.fail(f"{entry} was read"))
        for sources in ([album], [table], [album, table], [table, album]):
            again = index_images(sources, model, uri=uri, captions=False, prune=True)
            assert (again.report.updated, again.report.removed) == (0, 0)
            assert captions(uri) == spoken
    # Each follows what changes.
    (album / "c.txt").write_text("near c")
    table.write_text("image,caption,year\na.png,new a,1\nb.png,table b,2\n")
    for sources in rounds:
        index_images(sources, model, uri=uri, captions=False)
    assert captions(uri) == {"a": "new a", "b": "table b", "c": "near c"}
    (album / "b.png").write_bytes(image_bytes(9))
    for sources in rounds:
        index_images(sources, model, uri=uri, captions=False)
    assert captions(uri) == {"a": "new a", "b": "table b", "c": "near c"}


def test_the_sidecar_caption_counts_again_after_a_row_leaves_its_table(
    model: Predictor, uri: str, album: Path
) -> None:
    table = album / "table.csv"
    index_images([album, table], model, uri=uri, captions=False)
    table.write_text("image,caption,year\nb.png,table b,2\n")
    assert index_images([table], model, uri=uri, captions=False, prune=True).report.removed == 0
    assert index_images([album], model, uri=uri, captions=False).report.updated == 1
    assert captions(uri) == {"a": "near a", "b": "table b", "c": ""}
    table.write_text("image,caption,year\na.png,late a,3\n")
    both = index_images([album, table], model, uri=uri, captions=False, prune=True)
    assert both.report.removed == 0
    assert captions(uri) == {"a": "late a", "b": "", "c": ""}


def test_new_metadata_of_a_source_keeps_favourites_and_hidden_records(
    model: Predictor, uri: str, album: Path
) -> None:
    index_images([album], model, uri=uri, captions=False)
    with Collection.open(uri) as collection:
        records = collection.get(collection.ids()).values()
        collection.upsert(
            replace(one, metadata={**one.metadata, HIDDEN: True}, tags=(*one.tags, FAVOURITE))
            for one in records
        )
    (album / "b.json").write_text(json.dumps({"captions": ["new b"], "tags": ["t"], "year": 1}))
    report = index_images([album], model, uri=uri, captions=False, prune=True).report
    assert (report.updated, report.added, report.removed) == (1, 0, 0)
    with Collection.open(uri) as collection:
        found = {Path(one.path).stem: one for one in collection.get(collection.ids()).values()}
    assert (found["a"].metadata, found["a"].tags) == ({HIDDEN: True}, (FAVOURITE,))
    assert (found["b"].metadata, found["b"].tags) == ({HIDDEN: True, "year": 1}, ("t", FAVOURITE))
    # A hidden record whose file is gone is removed.
    (album / "a.png").unlink()
    assert index_images([album], model, uri=uri, captions=False, prune=True).report.removed == 1


def test_a_table_without_captions_keeps_the_captions_of_sidecar_files(
    model: Predictor, uri: str, album: Path
) -> None:
    table = album / "table.csv"
    table.write_text("image,year\na.png,1\nb.png,2\n")
    for sources in ([album, table], [album], [table]):
        index_images(sources, model, uri=uri, captions=False)
        assert captions(uri) == {"a": "near a", "b": "", "c": ""}
    (album / "b.txt").write_text("near b")
    index_images([album], model, uri=uri, captions=False)
    assert captions(uri)["b"] == "near b"


def test_a_file_that_only_a_table_still_names_is_pruned(
    model: Predictor, tmp_path: Path, uri: str, album: Path
) -> None:
    table = album / "table.csv"
    index_images([table], model, uri=uri, captions=False)
    (album / "b.png").unlink()
    kept = index_images([table], model, uri=uri, captions=False).report
    assert (kept.removed, len(kept.bad)) == (0, 1)
    assert index_images([table], model, uri=uri, captions=False, prune=True).report.removed == 1
    assert captions(uri) == {"a": "table a"}
    # A whole folder that is gone may be a drive that is not mounted.
    shutil.move(album, tmp_path / "elsewhere")
    moved = tmp_path / "table.csv"
    moved.write_text(f"image,caption,year\n{album / 'a.png'},table a,1\n")
    assert index_images([moved], model, uri=uri, captions=False, prune=True).report.removed == 0
    assert captions(uri) == {"a": "table a"}
    # Nor is an empty one where it would be mounted.
    album.mkdir()
    for trust in (False, True):
        pruned = index_images(
            [moved], model, uri=uri, captions=False, prune=True, prune_empty=trust
        )
        assert pruned.report.removed == int(trust)


def test_captions_of_a_table_stay_with_images_that_moved(
    model: Predictor, tmp_path: Path, uri: str, album: Path
) -> None:
    index_images([album, album / "table.csv"], model, uri=uri, captions=False)
    before = captions(uri)
    moved = album.rename(tmp_path / "moved")
    assert index_images([moved], model, uri=uri, captions=False).report.updated == 3
    assert captions(uri) == before
    with Collection.open(uri) as collection:
        (record,) = collection.get([content_id((moved / "a.png").read_bytes())]).values()
    assert (record.path, record.album) == (str(moved / "a.png"), str(moved))
    assert index_images([moved], model, uri=uri, captions=False).report.unchanged == 3
    # The table is read at its new place as well; it is another source there.
    index_images([moved / "table.csv"], model, uri=uri, captions=False)
    assert captions(uri) == before


def test_ctrl_c_reports_what_is_indexed_and_the_same_call_goes_on(
    model: Predictor, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(2 * model.batch_size + 1):
        (folder / f"{n:04}.png").write_bytes(image_bytes(n))
    embed, batches = model.embed_prepared, iter([False, True])

    def interrupted(images: Any) -> Any:
        if next(batches, False):
            raise KeyboardInterrupt
        return embed(images)

    with monkeypatch.context() as patch:
        patch.setattr(model, "embed_prepared", interrupted)
        with pytest.raises(KeyboardInterrupt) as stopped:
            index_images([folder], model, uri=uri, captions=False)
    assert str(stopped.value) == (
        f"stopped by Ctrl-C: {model.batch_size} images are in collection 'pictures' of {uri}; the "
        "same command goes on from there"
    )
    report = index_images([folder], model, uri=uri, captions=False).report
    assert (report.unchanged, report.added) == (model.batch_size, model.batch_size + 1)


def test_an_unknown_setting_is_refused_and_not_ignored(model: Predictor, album: Path) -> None:
    wrong: Any = {"collections": "mine"}
    with pytest.raises(ConfigError, match="no option 'collections'; did you mean 'collection'"):
        index_images([album], model, uri="none.db", **wrong)
    with pytest.raises(ConfigError, match="no option 'collections'"):
        index_sources([], model, uri="none.db", **wrong)


def test_a_model_is_loaded_after_the_sources_are_checked_and_for_the_collection_that_it_fills(
    model: Predictor, tmp_path: Path, uri: str, album: Path
) -> None:
    given: list[CollectionInfo | None] = []

    def load_model(info: CollectionInfo | None) -> Predictor:
        given.append(info)
        return model

    with pytest.raises(DataError, match="does not exist"):
        index_images([tmp_path / "absent"], load_model, uri=uri)
    assert not given
    first = index_images([album], load_model, uri=uri, captions=False)
    again = index_images([album], load_model, uri=uri, captions=False)
    assert again.report.unchanged == first.report.added
    assert [info and info.fingerprint for info in given] == [None, model.fingerprint]


def test_images_do_not_go_among_classes(model: Predictor, uri: str, album: Path) -> None:
    with open_classes(model, uri, create=True) as classes:
        add_classes(classes, model, ["cat", "dog"], templates=["{}"])
        name = classes.info.collection
    with pytest.raises(SearchError, match=r"contains classes, such as '(cat|dog)'"):
        index_images([album], model, uri=uri, collection=name, captions=False)
    with open_classes(model, uri) as classes:
        assert classes.count() == 2


def test_two_tables_of_the_same_images_do_not_take_turns(
    model: Predictor, uri: str, album: Path
) -> None:
    other = album / "other.csv"
    other.write_text("image,caption\na.png,other a\n")
    tables = [album / "table.csv", other]
    index_images(tables, model, uri=uri, captions=False)
    assert captions(uri) == {"a": "other a", "b": "table b"}
    for sources in (tables, tables[:1], tables[1:]):
        again = index_images(sources, model, uri=uri, captions=False)
        assert again.report == IngestReport(unchanged=again.report.good)
    # The last writer has priority.
    tables[0].write_text("image,caption,year\na.png,new a,1\nb.png,table b,2\n")
    index_images(tables, model, uri=uri, captions=False)
    assert captions(uri) == {"a": "new a", "b": "table b"}


def test_questions_of_a_table_and_their_answers_stay_with_the_image(
    model: Predictor, uri: str, album: Path
) -> None:
    table = album / "questions.jsonl"
    rows = [
        {"image": "a.png", "question": "what?", "answers": ["a", "b"], "year": 1},
        {"image": "a.png", "question": "where?", "answer": "here", "year": 1},
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    index_images([table], model, uri=uri, captions=False)
    with Collection.open(uri) as collection:
        ((record,),) = collection.read_through()
    assert record.metadata == {
        "year": 1,
        "questions": [
            {"question": "what?", "answers": ["a", "b"]},
            {"question": "where?", "answers": ["here"]},
        ],
    }


def test_indexing_and_serving_import_no_torch() -> None:
    modules = "coca.workflows.collections.index, coca.workflows.collections.watch, coca.server.app"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
