"""Shards in Amazon S3's protocol: a server of moto, filled and read by boto3 besides our reader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.tar.index import index_tars
from coca.data.sources.tar.shards import ShardsConfig, ShardWriter
from coca.data.storage.storage import expand_braces
from tiny_data import make_samples
from tiny_loader import make_loader, take

boto3 = pytest.importorskip("boto3", reason="`make test-integrations` installs it")
moto = pytest.importorskip("moto.server", reason="`make test-integrations` installs it")
pytestmark = pytest.mark.integrations

BUCKET = "photos"
SHARDS = f"s3://{BUCKET}/train/{{000000..000002}}.tar"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three shards in a bucket; the client of boto3 that uploaded them."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with ShardWriter(tmp_path / "shards", samples_per_shard=10) as writer:
        for sample in make_samples(30):
            writer.write(sample)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for file in (tmp_path / "shards").glob("*.tar"):
        client.upload_file(str(file), BUCKET, f"train/{file.name.removeprefix('shard-')}")
    yield client
    server.stop()


def test_workers_read_shards_of_a_bucket_as_those_of_a_folder(bucket: Any, tmp_path: Path) -> None:
    place = f"s3://{BUCKET}/index"
    assert list(index_tars(expand_braces(SHARDS), folder=place)) == [10, 10, 10]
    listed = bucket.list_objects_v2(Bucket=BUCKET, Prefix="index/")["Contents"]
    assert [entry["Key"].endswith(".idx") for entry in listed] == [True] * 3

    def images(path: str, index_folder: str = "", workers: int = 0) -> dict[str, bytes]:
        config = ShardsConfig(path=path, index_folder=index_folder)
        source, settings = open_source(config), {"workers": workers}
        loader = make_loader(source, configs=[config], batch_size=10, settings=settings)
        return {
            key: image.numpy().tobytes()
            for batch in take(loader, 3)
            for key, image in zip(batch.keys, batch.images, strict=True)
        }

    local = images(f"{tmp_path}/shards/shard-{{000000..000002}}.tar")
    assert len(local) == 30
    assert images(SHARDS, place, workers=2) == local
    # A pattern is listed by the server.
    assert images(f"s3://{BUCKET}/train/*.tar", place) == local


def test_a_shard_that_has_vanished_is_named(bucket: Any) -> None:
    source = open_source(ShardsConfig(path=SHARDS))
    assert source.read(25).key == "s0025"
    bucket.delete_object(Bucket=BUCKET, Key="train/000002.tar")
    with pytest.raises(DataError, match=rf"s3://{BUCKET}/train/000002\.tar is missing"):
        open_source(ShardsConfig(path=SHARDS))
    with pytest.raises(DataError, match=r"no \.tar file is found at s3://photos/test/\*"):
        open_source(ShardsConfig(path="s3://photos/test/*.tar"))
