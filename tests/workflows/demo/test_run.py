"""The demo itself, with a model for tests instead of the shipped one."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coca.core.errors import DataError, ModelError
from coca.predict.torch_loading import load_coca
from coca.search.stores import open_collection, open_store
from coca.workflows.demo import run as workflow
from coca.workflows.demo.run import PHOTO_QUERIES, DemoResult, demo, read_table
from tiny_model import write_model

SOME = read_table()[::10]


@pytest.fixture(scope="module", autouse=True)
def _fewer_photos() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "read_table", lambda: SOME)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def shown(folder: Path, model: Path) -> DemoResult:
    return demo(folder, model=model)


def test_the_report_has_searches_and_captions_in_one_file(shown: DemoResult) -> None:
    page = shown.report.read_text()
    links = re.findall(r'(?:src|href)="([^"#]{5})', page)
    assert len(links) > 100
    assert set(links) == {"data:"}
    for query in PHOTO_QUERIES:
        assert f"“{query}”" in page
    for words in ("Searches by image", f"{len(SOME)} images", "photo: ", "CREDITS.md"):
        assert words in page


def test_photos_are_indexed_with_their_credits_and_captions_of_the_model(shown: DemoResult) -> None:
    table = {photo.name: photo for photo in SOME}
    with open_collection(shown.uri) as collection:
        assert shown.count == collection.count() == len(table)
        for record in collection.get(collection.ids()).values():
            assert record.caption_source != "given"
            assert record.metadata["author"] == table[Path(record.path).name].author
            assert record.metadata["page"] == table[Path(record.path).name].page


def test_a_demo_that_stopped_before_its_collection_was_made_goes_on(
    tmp_path: Path, model: Path
) -> None:
    with open_store(str(tmp_path / "pictures.db"), create=True) as store:
        store.create("another", embed_dim=3, fingerprint="f")
    assert demo(tmp_path, images=own_images(tmp_path / "images"), model=model).count == 5


def test_a_model_that_is_missing_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        demo(tmp_path / "demo", model=tmp_path / "nothing")
    assert not (tmp_path / "demo").exists()


def own_images(folder: Path) -> Path:
    photos = folder.parent / "photos"
    workflow.write_photos(photos)
    folder.mkdir()
    for path in sorted(photos.glob("*.webp"))[:5]:
        shutil.copyfile(path, folder / path.name)
    return folder


def test_a_folder_of_ones_own_is_indexed_searched_and_captioned(
    tmp_path: Path, model: Path
) -> None:
    images = own_images(tmp_path / "images")
    uri = str(tmp_path / "mine.db")
    made = demo(tmp_path / "out", images=images, model=model, uri=uri)
    page = made.report.read_text()
    assert "“a red car”" in page
    assert "5 images" in page
    with open_collection(uri, "demo") as collection:
        assert collection.count() == 5
    # What another model filled is replaced.
    other = write_model(tmp_path / "other", seed=1)
    demo(tmp_path / "out", images=images, model=other, uri=uri)
    with open_collection(uri, "demo") as collection:
        assert collection.info.fingerprint == load_coca(other).fingerprint


def test_a_folder_without_images_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no readable image"):
        demo(tmp_path / "out", images=tmp_path / "empty", model=model)
