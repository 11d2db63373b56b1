from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import ConfigError, ModelError, SearchError
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.model.shipped import shipped
from coca.predict.loading import load
from coca.predict.text_embedder import TextEmbedder
from coca.predict.torch_loading import fingerprint
from coca.search.records import CollectionInfo, Record
from coca.search.store import Collection
from coca.search.stores import open_collection
from coca.workflows.collections.collection_model import (
    lasting_name,
    model_of,
    open_search,
    text_embedder,
)
from coca.workflows.collections.image_sources import open_sources, resolve_uris
from coca.workflows.collections.index import captioner, index_images, index_sources
from tiny_data import image_bytes
from tiny_model import write_model

INFO = CollectionInfo(
    uri="pictures.db",
    collection="pictures",
    count=0,
    embed_dim=16,
    fingerprint="0" * 16,
    model="",
    store="SQLite 3.46.1",
)


def test_a_model_that_was_named_from_here_is_found_from_elsewhere(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "here" / "photos" / "0.png").write_bytes(image_bytes(0))
    monkeypatch.chdir(tmp_path / "here")
    write_model(Path("model"))
    index_images(["photos"], load("model"), uri=uri, captions=False)
    monkeypatch.chdir(tmp_path)
    with open_search(uri) as engine:
        assert len(engine.search("x")) == 1
    with open_collection(uri) as collection:
        assert collection.info.model == str(tmp_path / "here" / "model")


def test_a_shipped_model_is_called_by_its_name() -> None:
    if not shipped():
        pytest.skip("no model is shipped here")
    name, home = next(iter(shipped().items()))
    assert lasting_name(load(name, device="cpu", prepack=False)) == name
    # Also at its path in another installation, as an earlier collection records.
    before = replace(INFO, fingerprint=fingerprint(home), model=f"/gone/coca/weights/{name}")
    assert model_of(before) == name


def test_a_model_that_is_gone_is_reported_with_what_to_do(tmp_path: Path) -> None:
    gone = replace(INFO, model=str(tmp_path / "gone"))
    with pytest.raises(
        ModelError, match=rf"by the model {tmp_path}/gone, which .* by --model; its"
    ):
        model_of(gone)
    with pytest.raises(ModelError, match=r"by a model without a name: name its folder by --model"):
        model_of(INFO)


def test_an_exported_model_takes_precedence_over_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    info = replace(INFO, model=str(tmp_path), fingerprint=fingerprint(shipped()["everyday"]))
    assert model_of(info) == str(tmp_path)
    assert model_of(replace(info, model="elsewhere")) == "everyday"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(image_bytes(number))
    (folder / "0.txt").write_text("a red car", encoding="utf-8")
    return folder


def test_captions_are_written_unless_they_are_unwanted(model: Path, photos: Path, uri: str) -> None:
    predictor = load(model)
    written = captioner(predictor)([image_bytes(1), image_bytes(2)])
    assert written == [one.text for one in predictor.caption([image_bytes(1), image_bytes(2)])]
    for collection, wanted in (("with", True), ("without", False)):
        index_images([photos], predictor, uri=uri, collection=collection, captions=wanted)
        with open_search(uri, collection=collection, model=predictor) as engine:
            captions = {hit.path[-5:]: hit.caption for hit in engine.search("x")}
        assert captions["0.png"] == "a red car"
        assert captions["1.png"] == (written[0] if wanted else "")


def test_a_collection_of_shorter_vectors_is_filled_and_searched(
    model: Path, photos: Path, uri: str
) -> None:
    filled = index_images([photos], load(model, dimensions=8), uri=uri)
    assert filled.collection.embed_dim == 8
    with open_search(uri) as engine:
        (hit,) = engine.search(image=photos / "1.png", limit=1)
        assert hit.path == str(photos / "1.png")
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert len(engine.search_batch(["a red car", "x"], limit=2)[0]) == 2
        assert engine.search("a red car", limit=3, rerank=3)[0].log_likelihood is not None
    whole = load(model)
    (photos / "3.png").write_bytes(image_bytes(3))
    again = index_images([photos], whole, uri=uri)
    assert (again.report.added, again.collection.embed_dim) == (1, 8)
    with pytest.raises(SearchError, match="dimensions=8"), open_search(uri, model=whole):
        pass


def test_texts_of_a_shipped_model_are_embedded_without_torch(model: Path) -> None:
    own, whole = load(model), load("everyday", device="cpu", dimensions=64)
    embedder = text_embedder(whole)
    assert isinstance(embedder, TextEmbedder)
    texts = ["a red car", "snow"]
    np.testing.assert_allclose(embedder.embed_texts(texts), whole.embed_texts(texts), atol=1e-5)
    assert text_embedder(own) is own


def test_re_ranking_reads_images_of_every_source(
    model: Path,
    photos: Path,
    tmp_path: Path,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ShardWriter(tmp_path / "shards") as writer:
        for number in range(3, 6):
            writer.write(Sample(f"k{number}", image_bytes(number)))
    predictor = load(model)
    index_sources(
        open_sources(resolve_uris([photos, *writer.paths])), predictor, uri=uri, captions=False
    )
    with open_search(uri, model=predictor) as engine:
        plain = engine.search("a red car", limit=6)
        hits = engine.search("a red car", limit=6, rerank=6)
        assert {hit.id for hit in hits} == {hit.id for hit in plain}
        for hit in hits:
            number = int(Path(hit.path).stem.removeprefix("k"))
            likely = predictor.score(image_bytes(number), "a red car")[0, 0]
            assert hit.log_likelihood == pytest.approx(likely, abs=1e-4)
        gone = next(hit.id for hit in hits if not hit.path.endswith("0.png"))
        with monkeypatch.context() as patch:
            patch.setattr(engine.collection, "get", _removed(gone, engine.collection))
            left = engine.search("a red car", limit=6, rerank=6)
        assert {hit.id for hit in left} == {hit.id for hit in hits} - {gone}
        # One that is gone from the disk follows the others, and is named.
        (photos / "0.png").unlink()
        left = engine.search("a red car", limit=6, rerank=6)
    lost = next(hit.id for hit in hits if hit.path.endswith("0.png"))
    still = [hit for hit in hits if hit.id not in (gone, lost)]
    assert [hit.id for hit in left] == [*(hit.id for hit in still), lost]
    assert [hit.rank_score for hit in left[:-1]] == [hit.rank_score for hit in still]
    assert (left[-1].rank_score, left[-1].log_likelihood) == (None, None)
    (message,) = (record.getMessage() for record in caplog.records)
    assert "1 of 5 images cannot be re-ranked" in message
    assert "0.png cannot be read" in message


def _removed(id: str, collection: Collection) -> Any:
    """A read before which, as by another thread, a record is removed."""
    get = collection.get

    def remove_and_get(ids: Iterable[str]) -> dict[str, Record]:
        collection.delete([id])
        return get(ids)

    return remove_and_get


def test_a_collection_of_an_earlier_edition_says_how_to_embed_it_again() -> None:
    info = replace(INFO, model="everyday", uri="my photos.db")
    remedy = (
        "earlier edition of everyday .*coca reindex --model everyday --uri 'my photos.db' --coll"
    )
    with pytest.raises(ModelError, match=remedy):
        model_of(info)


def test_a_missing_model_is_replaced_by_the_fallback_or_reported(
    model: Path, photos: Path, tmp_path: Path, uri: str
) -> None:
    moved = write_model(tmp_path / "moved")
    index_images([photos], load(moved), uri=uri, captions=False)
    moved.rename(tmp_path / "elsewhere")
    with open_search(uri, fallback=lambda: tmp_path / "elsewhere") as engine:
        assert len(engine.search("x")) == 3
    gone = "'pictures' in .*pictures.db was filled by .*moved, .* no longer exists.*--model"
    with pytest.raises(ModelError, match=gone), open_search(uri):
        pass

    def ask() -> str:
        raise ConfigError("name a model")

    with pytest.raises(ConfigError, match="name a model"), open_search(uri, fallback=ask):
        pass
