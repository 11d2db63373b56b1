from dataclasses import replace
from pathlib import Path

import pytest

from coca.core.errors import ModelError
from coca.inference.loading import fingerprint, load, shipped
from coca.search.milvus.collection import Collection
from coca.search.records import CollectionInfo
from coca.workflows.collections.collection_model import lasting_name, model_of
from coca.workflows.collections.index import index_images
from coca.workflows.collections.search import open_search
from tiny_data import image_bytes
from tiny_model import write_model

INFO = CollectionInfo(
    uri="pictures.db",
    collection="pictures",
    count=0,
    embed_dim=16,
    fingerprint="0" * 16,
    model="",
    server_version="milvus_lite-3.2.2",
)


def test_a_model_that_was_named_from_here_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "here" / "photos" / "0.png").write_bytes(image_bytes(0))
    monkeypatch.chdir(tmp_path / "here")
    write_model(Path("model"))
    uri = str(tmp_path / "pictures.db")
    index_images(["photos"], load("model"), uri=uri, captions=False)
    monkeypatch.chdir(tmp_path)
    with open_search(uri) as engine:
        assert len(engine.search("x")) == 1
    with Collection.open(uri) as index:
        assert index.info.model == str(tmp_path / "here" / "model")


def test_a_shipped_model_is_called_by_its_name() -> None:
    if not shipped():
        pytest.skip("no model is shipped here")
    name, home = next(iter(shipped().items()))
    assert lasting_name(load(name, device="cpu", prepack=False)) == name
    # Also at its path in another installation, as an earlier collection records.
    before = replace(INFO, fingerprint=fingerprint(home), model=f"/gone/coca/weights/{name}")
    assert model_of(before) == name
    # A collection of before the fingerprint covered the configuration.
    assert model_of(replace(before, fingerprint=fingerprint(home)[:16])) == name


def test_a_model_that_is_gone_is_reported_with_what_to_do(tmp_path: Path) -> None:
    gone = replace(INFO, model=str(tmp_path / "gone"))
    with pytest.raises(
        ModelError, match=rf"by the model {tmp_path}/gone, which .* by --model; its"
    ):
        model_of(gone)
    with pytest.raises(ModelError, match=r"by a model without a name: name its folder by --model"):
        model_of(INFO)


def test_an_exported_model_takes_precedence_unless_torch_runs_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    info = replace(INFO, model=str(tmp_path))
    assert model_of(info) == model_of(info, runtime="onnx") == str(tmp_path)
    if shipped():
        name, home = next(iter(shipped().items()))
        shared = replace(info, fingerprint=fingerprint(home))
        assert model_of(shared) == str(tmp_path)
        assert model_of(shared, runtime="torch") == name
    with pytest.raises(ModelError, match="'pictures' was filled by nano: name the folder of"):
        model_of(replace(INFO, model="nano"), runtime="onnx")
