"""Collections that are filled from Parquet files of embedded records."""

from pathlib import Path

import pytest

from coca.core.errors import SearchError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig, ShardWriter
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search import stores
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.parquet import VectorsInfo, write_vectors
from coca.search.ingest.sample_source import SampleSource
from coca.workflows.collections.collection_model import open_collection
from coca.workflows.collections.index import index_images
from tiny_data import image_bytes
from tiny_ingest import ingest
from tiny_model import write_model

pytest.importorskip("pyarrow")


def write_tar(root: Path, count: int) -> str:
    with ShardWriter(root / "shards", samples_per_shard=count) as writer:
        for number in range(count):
            captions = (f"number {number}",) if number % 2 else ()
            writer.write(Sample(f"k{number}", image_bytes(number), captions))
    return str(writer.paths[0])


def embed(tar: str, model: TorchPredictor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_collection(model, f"{path}.db", create=True) as collection:
        report = ingest([SampleSource(open_source(ShardsConfig(path=tar)))], model, collection)
        (records,) = collection.pages()
    about = VectorsInfo(
        fingerprint=model.fingerprint,
        embed_dim=model.embed_dim,
        model=str(model.source),
        source=tar,
        images=report.good,
        bad=0,
    )
    write_vectors(path, records, about)


def test_a_collection_equals_that_of_the_images_themselves(tmp_path: Path) -> None:
    model = load_coca(write_model(tmp_path / "model"), device="cpu")
    tar, files = write_tar(tmp_path, 4), tmp_path / "vectors"
    embed(tar, model, files / "a.parquet")
    by_file, directly = str(tmp_path / "a.db"), str(tmp_path / "b.db")
    assert index_images([files], model, uri=by_file).report == IngestReport(added=4)
    assert index_images([files], model, uri=by_file).report == IngestReport(unchanged=4)
    index_images([tar], model, uri=directly, captions=False)
    with stores.open_collection(by_file) as one, stores.open_collection(directly) as other:
        records = one.get(one.ids())
        assert records == other.get(one.ids())
        assert {record.caption for record in records.values()} == {"", "number 1", "number 3"}


def test_vectors_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    tar, files = write_tar(tmp_path, 2), tmp_path / "vectors"
    for seed in (0, 1):
        model = load_coca(write_model(tmp_path / f"model{seed}", seed=seed), device="cpu")
        embed(tar, model, files / f"{seed}.parquet")
    with pytest.raises(SearchError, match="several models"):
        index_images([files], model, uri=str(tmp_path / "a.db"))
