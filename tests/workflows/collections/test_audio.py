"""Audio in a collection: windows of long clips, queries by clips, and models that do not hear."""

from pathlib import Path

import numpy as np
import pytest

import coca
from coca.core.errors import ConfigError, DataError
from coca.inference.predictor import Predictor
from coca.processing.image import ImageConfig
from coca.search.milvus.collection import Collection
from coca.search.query.originals import read_original
from coca.workflows.collections.collection_model import open_search
from coca.workflows.collections.image_resolver import ImageResolver
from coca.workflows.collections.index import index_images
from tiny_audio import tone, wav, write_hearing_model
from tiny_data import image_bytes
from tiny_model import write_model

pytest.importorskip("av", reason="needs the extra `audio`")


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    predictor = coca.load(write_hearing_model(tmp_path_factory.mktemp("model")), device="cpu")
    assert isinstance(predictor, Predictor)
    return predictor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "long.wav").write_bytes(wav(np.concatenate([tone(300, 1.0), tone(3_000, 1.5)])))
    (folder / "long.json").write_text('{"caption": "two tones", "tags": ["test"]}')
    (folder / "short.wav").write_bytes(wav(tone(1_000, 0.4)))
    (folder / "photo.png").write_bytes(image_bytes(0))
    return folder


def test_audio_and_images_are_searchable_in_one_collection(
    hearing: Predictor, folder: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "all.db")
    report = index_images([folder], hearing, uri=uri, captions=False).report
    assert (report.added, list(report.bad)) == (5, [])
    with Collection.open(uri) as collection:
        paths = {record.path for batch in collection.read_through() for record in batch}
        names = {path.removeprefix(f"{folder}/") for path in paths}
        assert names == {
            "long.wav#t=0",
            "long.wav#t=1",
            "long.wav#t=2",
            "short.wav#t=0",
            "photo.png",
        }
    assert index_images([folder], hearing, uri=uri, captions=False).report.unchanged == 5


def test_a_window_is_found_by_its_own_audio_and_read_again(
    hearing: Predictor, folder: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "all.db")
    index_images([folder], hearing, uri=uri, captions=False)
    clip = wav(tone(3_000, 1.0))
    with open_search(uri, model=hearing) as engine:
        (best,) = engine.search(image=clip, k=1)
    assert best.path.endswith("long.wav#t=1")
    assert best.metadata["audio_caption"] == "two tones"
    with Collection.open(uri) as collection:
        data = read_original(collection.get([best.id])[best.id], ImageResolver())
    assert np.array_equal(hearing.prepare_image(data), hearing.prepare_image(clip))


def test_a_model_of_images_skips_audio_aloud(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = coca.load(write_model(tmp_path / "model"), device="cpu")
    uri = str(tmp_path / "all.db")
    report = index_images([folder], predictor, uri=uri, captions=False).report
    assert report.added == 1
    assert "2 audio files are skipped" in caplog.text
    assert "a model that hears" in caplog.text
    with pytest.raises(DataError, match="is audio, and this model reads images"):
        predictor.embed_images([folder / "short.wav"])


def test_damaged_audio_is_listed_and_the_rest_is_indexed(
    hearing: Predictor, folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.mp3").write_bytes(b"ID3" + bytes(900))
    result = index_images([folder], hearing, uri=str(tmp_path / "all.db"), captions=False)
    assert result.report.added == 5
    (bad,) = result.report.bad
    assert bad.path == str(folder / "broken.mp3")
    assert "damaged" in bad.detail


def test_the_length_of_the_window_is_kept_with_the_model(hearing: Predictor) -> None:
    assert hearing.image_settings.audio_s == 1.0
    assert hearing.processor.image_config.audio_s == 1.0


def test_a_model_of_images_has_the_files_and_the_fingerprint_of_before(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert "audio_s" not in (folder / "processor.json").read_text()
    other = write_hearing_model(tmp_path / "hearing")
    loaded = [coca.load(it, device="cpu").fingerprint for it in (folder, other)]
    assert loaded[0] != loaded[1]


@pytest.mark.parametrize("changes", [{"resize": "crop"}, {"trim": True}])
def test_resizing_that_loses_times_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="resize: squash"):
        ImageConfig(image_size=16, audio_s=1.0, **changes)  # type: ignore[arg-type]
