"""An image can be read again by what its record knows of it: a path and an etag."""

import hashlib
import importlib.util
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.search.ingest.reindex import reindex
from coca.search.ingest.sources import SourceImage
from coca.search.stores import open_store
from coca.workflows.collections.image_resolver import ImageResolver
from coca.workflows.collections.image_sources import open_sources, resolve_uris
from range_server import RangeServer
from tiny_data import image_bytes
from tiny_ingest import ingest

HAS_AV = importlib.util.find_spec("av") is not None
FRAME_INTERVAL_S = 0.5


class StandIn:
    """A stub model: equal images get equal vectors."""

    def __init__(self, fingerprint: str, embed_dim: int) -> None:
        self.fingerprint, self.embed_dim = fingerprint, embed_dim

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        seeds = [int.from_bytes(hashlib.sha256(image).digest()[:8], "big") for image in images]
        vectors = np.stack(
            [np.random.default_rng(seed).standard_normal(self.embed_dim) for seed in seeds]
        )
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        return self.embed_images([text.encode() for text in texts])


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """A folder, tars, a table that contains its images, one that names them, a zip, a video."""
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    photos = tmp_path / "photos.zip" / "of a.tar"
    photos.mkdir(parents=True)
    for n in (0, 1):
        (photos / f"{n}.png").write_bytes(image_bytes(n))
    with ShardWriter(tmp_path / "shards", samples_per_shard=2) as writer:
        for n in (2, 3, 4):
            writer.write(Sample(f"k{n}", image_bytes(n), (f"number {n}",)))
    rows = [{"key": f"k{n}", "image": image_bytes(n), "caption": "x"} for n in (5, 6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    (tmp_path / "other.png").write_bytes(image_bytes(7))
    (tmp_path / "table.csv").write_text("image\nother.png\n")
    with zipfile.ZipFile(tmp_path / "sets.zip", "w") as file:
        for n in (8, 9):
            file.writestr(f"pics/{n}.png", image_bytes(n))
        row = {"images": ["pics/8.png", "pics/9.png"], "caption": "two"}
        file.writestr("meta.jsonl", json.dumps(row) + "\n")
    named = [photos, *writer.paths, tmp_path / "table.parquet", tmp_path / "table.csv"]
    named.append(tmp_path / "sets.zip")
    if HAS_AV:
        named.append(tmp_path / "film.mp4")
        from tiny_video import video

        named[-1].write_bytes(video())
    return named


def images_of(sources: Sequence[Path]) -> list[SourceImage]:
    found: list[SourceImage] = []
    for source in open_sources(resolve_uris(sources), frame_interval_s=FRAME_INTERVAL_S):
        for entry in source.entries():
            found += source.read(entry)
    return found


def test_a_collection_of_all_kinds_is_embedded_by_another_model(
    sources: list[Path], tmp_path: Path
) -> None:
    count, newer = len(images_of(sources)), StandIn("two", 8)
    with open_store(str(tmp_path / "a.db"), create=True) as store:
        old = store.create("pictures", embed_dim=16, fingerprint="one")
        opened = open_sources(resolve_uris(sources), frame_interval_s=FRAME_INTERVAL_S)
        ingest(opened, StandIn("one", 16), old)
        before = old.get(old.ids())
        report = reindex(store, "pictures", newer, open_image=ImageResolver(), batch_size=4)
        assert (report.embedded, report.lost) == (count, [])
        new = store.open("pictures")
        after = new.get(new.ids())
        assert after == before
        read = ImageResolver()
        for record in after.values():
            image = read(record.path, record.origin.etag)
            assert record.vector == pytest.approx(newer.embed_images([image])[0], abs=1e-5)


def test_images_behind_addresses_are_embedded_again(sources: list[Path], tmp_path: Path) -> None:
    server = RangeServer(tmp_path, fail_every=0)
    try:
        rows = [{"image": f"{server.url}/other.png", "caption": "far away"}]
        (tmp_path / "far.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        far: list[str | Path] = [tmp_path / "far.jsonl", f"{server.url}/shards/shard-000000.tar"]
        with open_store(str(tmp_path / "a.db"), create=True) as store:
            old = store.create("pictures", embed_dim=16, fingerprint="one")
            ingest(open_sources(resolve_uris(far), read_from=[server.url]), StandIn("one", 16), old)
            assert {record.path for record in old.get(old.ids()).values()} == {
                f"{server.url}/other.png",
                f"{server.url}/shards/shard-000000.tar/k2",
                f"{server.url}/shards/shard-000000.tar/k3",
            }
            before = old.get(old.ids())
            report = reindex(store, "pictures", StandIn("two", 8), open_image=ImageResolver())
            assert (report.embedded, report.lost) == (3, [])
            new = store.open("pictures")
            assert new.get(new.ids()) == before
            (tmp_path / "other.png").unlink()
            report = reindex(store, "pictures", StandIn("three", 8), open_image=ImageResolver())
            assert report.embedded == 2
            ((path, reason),) = report.lost
            assert path == f"{server.url}/other.png"
            assert path in reason
    finally:
        server.stop()


def test_what_is_gone_is_reported(sources: list[Path], tmp_path: Path) -> None:
    read, tar = ImageResolver(), tmp_path / "shards" / "shard-000000.tar"
    with pytest.raises(DataError, match=r"shard-000000.tar has no k9 any more"):
        read(f"{tar}/k9", "")
    tar.unlink()
    with pytest.raises(DataError, match=r"k2 cannot be read"):
        read(f"{tar}/k2", "")
    if HAS_AV:
        (frame, *_) = (one for one in images_of(sources[-1:]))
        with pytest.raises(DataError, match="has changed since"):
            read(frame.path, "7/0.5s")
        with pytest.raises(DataError, match="no such frame"):
            read(frame.path.replace("#t=0", "#t=77"), frame.etag)
        film = sources[-1].rename(tmp_path / "live.mov")
        (frame, *_) = (one for one in images_of([film]))
        film.with_suffix(".jpg").write_bytes(image_bytes(0))
        with pytest.raises(DataError, match=r"live\.mov has changed since"):
            ImageResolver()(frame.path, frame.etag)
