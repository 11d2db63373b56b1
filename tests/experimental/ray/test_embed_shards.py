from pathlib import Path

import pytest

from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.experimental.ray.embed_shards import (
    embed_shards,
    find_shards,
    share_of_each,
)
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.stores import open_collection
from coca.workflows.collections.index import index_images
from tiny_data import image_bytes
from tiny_model import write_model

pytest.importorskip("pyarrow")
SHARDS, PER_SHARD = 6, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> TorchPredictor:
    return load_coca(folder, device="cpu")


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Tars of 24 images, of which one is in two of them."""
    with ShardWriter(tmp_path / "shards", samples_per_shard=PER_SHARD) as writer:
        for n in range(SHARDS * PER_SHARD):
            captions = (f"number {n}",) if n % 2 else ()
            writer.write(Sample(f"k{n}", image_bytes(0 if n == 9 else n), captions))
    return find_shards([tmp_path / "shards"])


def test_tars_become_files_and_files_the_same_collection_as_the_tars_themselves(
    shards: list[str], model: TorchPredictor, tmp_path: Path
) -> None:
    out = tmp_path / "vectors"
    done = list(embed_shards(shards, model, out))
    assert [one.made for one in done] == [True] * SHARDS
    assert sum(one.images for one in done) == SHARDS * PER_SHARD
    through_files = index_images([out], model, uri=str(tmp_path / "a.db"))
    assert through_files.report.added == 24
    assert through_files.collection.model == str(model.source)
    directly = index_images(shards, model, uri=str(tmp_path / "b.db"), captions=False)
    # One image is in two tars.
    assert (directly.report.added, directly.report.duplicates) == (23, 1)
    with (
        open_collection(str(tmp_path / "a.db")) as one,
        open_collection(str(tmp_path / "b.db")) as other,
    ):
        ids = one.ids()
        assert one.get(ids) == other.get(ids)
        for id, record in one.get(ids).items():
            same = other.get([id])[id]
            assert record.vector == pytest.approx(same.vector, abs=1e-5)
            assert (record.text_vector is None) == (same.text_vector is None)


def test_finished_tars_are_found_and_a_changed_tar_is_embedded_again(
    shards: list[str], model: TorchPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "vectors"
    list(embed_shards(shards, model, out))
    with monkeypatch.context() as patch:
        patch.setattr(TorchPredictor, "embed_prepared", lambda *_: pytest.fail("it embeds again"))
        again = list(embed_shards(shards, model, out, start=2))
    assert [one.shard for one in again] == [*shards[2:], *shards[:2]]
    assert not any(one.made for one in again)
    assert {one.images for one in again} == {PER_SHARD}
    with ShardWriter(tmp_path / "other") as writer:
        writer.write(Sample("new", image_bytes(99)))
    writer.paths[0].replace(shards[0])
    (made,) = (one for one in embed_shards(shards, model, out) if one.made)
    assert made.images == 1


def test_bad_images_and_bad_tars_are_reported(model: TorchPredictor, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shards", samples_per_shard=2) as writer:
        for n in range(4):
            writer.write(Sample(f"k{n}", image_bytes(n) if n else image_bytes(n)[:60]))
    writer.paths[1].write_bytes(b"no tar")
    Path(f"{writer.paths[1]}.idx").unlink()
    first, second = embed_shards(find_shards([tmp_path / "shards"]), model, tmp_path / "out")
    assert (first.images, [bad.path for bad in first.bad]) == (1, [f"{writer.paths[0]}/k0"])
    assert "shard-000001.tar" in second.fault
    assert second.out is None


@pytest.mark.parametrize(
    ("workers", "cluster", "device", "share"),
    [
        (4, {"CPU": 16.0}, None, {"num_cpus": 1.0}),
        (4, {"CPU": 16.0, "GPU": 4.0}, "cpu", {"num_cpus": 1.0}),
        (32, {"CPU": 16.0}, None, {"num_cpus": 0.5}),
        (1, {}, None, {"num_cpus": 1.0}),
        (4, {"CPU": 16.0, "GPU": 4.0}, None, {"num_gpus": 1.0, "num_cpus": 0}),
        (2, {"CPU": 1.0, "GPU": 4.0}, "cuda", {"num_gpus": 1.0, "num_cpus": 0}),
        (3, {"CPU": 16.0, "GPU": 2.0}, None, {"num_gpus": 0.5, "num_cpus": 0}),
    ],
)
def test_every_worker_gets_a_fraction_that_fits(
    workers: int, cluster: dict[str, float], device: str | None, share: dict[str, float]
) -> None:
    assert share_of_each(workers, cluster, device=device) == share
