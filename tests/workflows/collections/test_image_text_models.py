"""Image-text models of other libraries in every workflow of collections, and served."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coca
from coca.core.config.execution import Execution
from coca.core.errors import ConfigError, UnsupportedError
from coca.data.sources.folder import FolderConfig
from coca.predict.predictor import Predictor
from coca.search.stores import open_collection
from coca.tasks import TaskConfig
from coca.workflows.collections.collection_model import open_search
from coca.workflows.collections.index import index_images
from coca.workflows.evaluation.evaluate import evaluate
from tiny_data import image_bytes
from tiny_image_text import write_openclip, write_transformers
from tiny_model import write_model

COUNT = 32
WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "clip": ("open_clip", write_openclip),
    "naflex": ("transformers", partial(write_transformers, family="siglip2")),
}
"""Name of a family -> the package of its library, and what writes a folder of it."""


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    package, write = WRITERS[request.param]
    pytest.importorskip(package, reason="the extra of this library is not installed")
    return write(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Predictor:
    return coca.load(folder, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        (root / f"{number}.png").write_bytes(image_bytes(number))
    return root


@pytest.fixture(scope="module")
def uri(model: Predictor, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection without captions."""
    uri = str(tmp_path_factory.mktemp("collection") / "pictures.db")
    assert index_images([photos], model, uri=uri).report.added == COUNT
    return uri


def test_indexing_writes_no_captions(uri: str) -> None:
    with open_collection(uri) as collection:
        assert [it.caption for it in collection.get(collection.ids()).values()] == [""] * COUNT


def test_a_collection_stays_valid_in_another_precision(photos: Path, uri: str) -> None:
    image = (photos / "3.png").read_bytes()
    with open_search(uri, execution=Execution(device="cpu", precision="bf16")) as engine:
        assert engine.search(image=image, limit=1)[0].path == str(photos / "3.png")


def test_a_search_loads_the_model_of_the_collection(
    model: Predictor, photos: Path, uri: str
) -> None:
    image = (photos / "3.png").read_bytes()
    with open_search(uri) as engine:
        assert engine.search(image=image, limit=1)[0].path == str(photos / "3.png")
        found = engine.search(vector=model.embed_texts("a dog")[0], limit=COUNT)
        assert len(engine.search("a dog", limit=3)) == 3
        with pytest.raises(UnsupportedError, match="use a CoCa model"):
            engine.search("a dog", limit=2, rerank=2)
    cosines = model.embed_images([(photos / f"{n}.png").read_bytes() for n in range(COUNT)])
    expected = np.sort(cosines @ model.embed_texts("a dog")[0])[::-1]
    assert len(found) == COUNT
    assert found[0].score == pytest.approx(expected[0], abs=1e-3)


def test_captions_come_from_another_model(model: Predictor, photos: Path, tmp_path: Path) -> None:
    uri, writer = str(tmp_path / "captioned.db"), write_model(tmp_path / "coca")
    index_images([photos], model, uri=uri, captions_from=writer)
    expected = coca.load(writer, device="cpu").caption([image_bytes(0)])[0].text
    with open_collection(uri) as collection:
        captions = {it.path: it.caption for it in collection.get(collection.ids()).values()}
    assert captions[str(photos / "0.png")] == expected
    with pytest.raises(ConfigError, match="has no decoder that writes captions"):
        index_images([photos], model, uri=str(tmp_path / "other.db"), captions_from=model)


def test_zero_shot_classification_and_retrieval_are_evaluated(folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        label = ("red", "blue")[number % 2]
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{number}.png").write_bytes(image_bytes(number))
        (tmp_path / label / f"{number}.txt").write_text(f"{label} {number}", encoding="utf-8")
    data = FolderConfig(path=str(tmp_path))
    configs = [TaskConfig(task="zero_shot", data=data), TaskConfig(task="retrieval", data=data)]
    results = evaluate(folder, configs, out=tmp_path / "out")
    assert [result.samples for result in results] == [4, 4]
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["fingerprint"] == coca.load(folder, device="cpu").fingerprint
    with pytest.raises(UnsupportedError, match="use a CoCa model"):
        evaluate(folder, [TaskConfig(task="captioning", data=data)])


@pytest.fixture
def client(model: Predictor, uri: str, tmp_path: Path) -> Iterator[Any]:
    """A service over the collection."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from fastapi.testclient import TestClient

    from coca.server.app import create_app
    from coca.server.service import open_service
    from coca.server.settings import ServerSettings

    settings = ServerSettings(thumbnails=tmp_path / "thumbnails", uploads=tmp_path / "uploads")
    with (
        open_service(uri, ["pictures"], settings, model=model) as service,
        TestClient(create_app(service, settings), base_url="http://localhost") as client,
    ):
        yield client


def test_the_service_embeds_as_the_model_does(model: Predictor, client: Any, photos: Path) -> None:
    answer = client.post("/v1/embeddings", json={"input": ["a dog", ""]}).json()
    vectors = np.array([item["embedding"] for item in answer["data"]])
    np.testing.assert_allclose(vectors, model.embed_texts(["a dog", ""]), atol=1e-6)
    hits = client.post("/v1/search", json={"text": "a dog", "limit": 3})
    assert hits.status_code == 200, hits.text
    assert len(hits.json()["hits"]) == 3
    caption = client.post("/v1/caption", files={"image": (photos / "5.png").read_bytes()})
    assert caption.status_code in (400, 501), caption.text
    assert "use a CoCa model" in caption.text
