"""Embed the images of shards to Parquet files, in one process or on Ray.

Processes on any machines share only the output folder. The file name contains a hash of model and
tar content, so finished tars are skipped. The file of a changed tar replaces the old file. A file
lock, which the system releases when its process ends, gives each tar to one process.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from coca.core.config.execution import DEFAULT, Execution
from coca.core.errors import ConfigError, DataError, StorageError
from coca.core.extras import require
from coca.core.progress import progress_bar
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.tar.shards import ShardsConfig
from coca.data.storage.storage import Storage, full_path
from coca.predict.loading import load
from coca.predict.predictor import Predictor
from coca.search.ingest.encoding import Encoder
from coca.search.ingest.ingest_report import BadImage
from coca.search.ingest.parquet import VectorsInfo, find_vectors, read_info, write_vectors
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.sample_source import SampleSource
from coca.workflows.collections.collection_model import lasting_name, open_collection
from coca.workflows.collections.index import captioner

# Distributed embedding of tars: one Parquet file per tar, by any number of processes.


@dataclass(frozen=True)
class EmbeddedShard:
    """Result of embedding one tar."""

    shard: str
    out: Path | None
    """Parquet file of the vectors; None while another process embeds the tar, or if it is bad."""
    made: bool = False
    """Whether the file was written by this call; False if it existed."""
    images: int = 0
    bad: tuple[BadImage, ...] = ()
    fault: str = ""
    """Error that makes the whole tar unusable; empty if there is none."""


def find_shards(uris: Sequence[str | Path]) -> list[str]:
    """Expand folders, patterns and URLs to tars."""
    return Storage().find([str(uri) for uri in uris], suffix=".tar")


def embed_shards(
    shards: Sequence[str],
    predictor: Predictor,
    out: str | Path,
    *,
    captions: bool = False,
    start: int = 0,
) -> Iterator[EmbeddedShard]:
    """Embed tars in turn; skip finished tars and those claimed by another process.

    Yields:
        The result of each tar.
    """
    for number in range(len(shards)):
        shard = shards[(start + number) % len(shards)]
        yield embed_shard(shard, predictor, out, captions=captions)


def embed_shard(
    shard: str,
    predictor: Predictor,
    out: str | Path,
    *,
    captions: bool = False,
) -> EmbeddedShard:
    """Embed one tar unless it is finished or claimed by another process."""
    try:
        source = open_source(ShardsConfig(path=shard))
    except DataError as error:
        return EmbeddedShard(shard, None, fault=str(error))
    names = {
        captioned: f"{Path(shard).stem}-{_address(source, predictor, captioned)}"
        for captioned in (False, True)
    }
    path = Path(out) / f"{names[captions]}.parquet"
    claim = Path(out) / ".claims" / names[captions]
    # If both file and claim exist, a process was killed before it removed older files.
    if not path.exists() or claim.exists():
        lock = _take(claim)
        if lock is None:
            return EmbeddedShard(shard, None)
        made = None
        with lock:
            # The previous holder of the claim may have written the file.
            if not path.exists():
                made = _embed(shard, source, predictor, path, captions)
            _remove_older(shard, predictor, out, now=set(names.values()))
            # Removed while locked: a process that has it open checks for the result next.
            claim.unlink(missing_ok=True)
        if made is not None:
            return made
    return EmbeddedShard(shard, path, images=read_info(path).images)


def _embed(
    shard: str,
    source: Source,
    predictor: Predictor,
    path: Path,
    captions: bool,
) -> EmbeddedShard:
    if captions:
        captioner(predictor)  # Refuses a model without a decoder.
    with (
        TemporaryDirectory() as scratch,
        open_collection(predictor, f"{scratch}/vectors.db", create=True) as collection,
    ):
        encoder = Encoder(predictor, collection.info, captions=captions)
        report = ingest([SampleSource(source)], encoder, collection)
        records = [record for page in collection.pages() for record in page]
    about = VectorsInfo(
        fingerprint=predictor.fingerprint,
        embed_dim=predictor.embed_dim,
        model=lasting_name(predictor),
        source=full_path(shard),
        images=report.good,
        bad=len(report.bad),
    )
    write_vectors(path, records, about)
    return EmbeddedShard(shard, path, made=True, images=report.good, bad=tuple(report.bad))


def _remove_older(shard: str, predictor: Predictor, out: str | Path, *, now: set[str]) -> None:
    """Delete the files of earlier versions of a tar; `now` contains the current file stems."""
    for file in Path(out).glob(f"{escape(Path(shard).stem)}-*.parquet"):
        if file.stem in now or not find_vectors(file):
            continue
        info = read_info(file)
        if (info.source, info.fingerprint) == (full_path(shard), predictor.fingerprint):
            file.unlink(missing_ok=True)


def _address(source: Source, predictor: Predictor, captions: bool) -> str:
    """Hash everything that the result depends on: model, tar content and captioning."""
    parts = (predictor.model_fingerprint, source.fingerprint, str(captions))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _take(claim: Path) -> BinaryIO | None:
    """Lock the claim until the file is closed; return None if another process holds it."""
    # Imported here, since `fcntl` is missing on Windows and only these commands need it.
    import fcntl

    try:
        claim.parent.mkdir(parents=True, exist_ok=True)
        file = claim.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
    except OSError as error:
        raise StorageError(f"{claim} cannot be written: {error.strerror or error}") from error
    return file


# Embedding of tars on a Ray cluster; each worker loads the model once.


def embed_shards_on_ray(
    shards: Sequence[str],
    model: str,
    out: str | Path,
    *,
    workers: int,
    captions: bool = False,
    execution: Execution = DEFAULT,
    address: str | None = None,
) -> Iterator[EmbeddedShard]:
    """Embed tars as `embed_shards`, with Ray workers.

    Yields:
        The result of each tar, as it finishes.
    """
    if execution.device not in (None, "cpu", "cuda"):
        raise ConfigError(
            f"--device must be cuda, cpu or not given with Ray, which assigns the devices, "
            f"got {execution.device}"
        )
    ray = require("ray", extra="ray")
    pools = require("ray.util", extra="ray")
    started_here = not ray.is_initialized()
    if started_here and address is None:
        cores = max(workers, os.cpu_count() or 1)
        ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    elif started_here:
        ray.init(address, log_to_driver=False)
    # Absolute paths, since the working directory of a worker is arbitrary.
    given = {full_path(shard): shard for shard in shards}
    source = full_path(model) if os.path.exists(model) else model
    try:
        worker = ray.remote(_Worker).options(
            **share_of_each(workers, ray.cluster_resources(), device=execution.device)
        )
        pool = pools.ActorPool(
            [
                worker.remote(source, execution, full_path(str(out)), captions)
                for _ in range(workers)
            ]
        )
        with progress_bar("embed tars", len(shards)) as bar:
            for result in pool.map_unordered(lambda actor, shard: actor.embed.remote(shard), given):
                bar.advance(1, images=result.images)
                yield replace(result, shard=given[result.shard])
    finally:
        if started_here:
            ray.shutdown()


def share_of_each(
    workers: int, cluster: Mapping[str, float], *, device: str | None
) -> dict[str, float]:
    """Compute the resources per worker so that all workers fit; an excess worker waits forever."""
    accelerators = int(cluster.get("GPU", 0))
    if device == "cuda" and not accelerators:
        raise ConfigError("--device is cuda, and Ray knows no accelerator in the cluster")
    if device != "cpu" and accelerators:
        # 1 / n per worker, since a worker cannot span accelerators: with 2 accelerators and 3
        # workers, 2/3 of an accelerator each would leave no room for the third.
        return {"num_gpus": 1 / math.ceil(workers / accelerators), "num_cpus": 0}
    return {"num_cpus": 1 / math.ceil(workers / max(int(cluster.get("CPU", 0)), 1))}


class _Worker:
    def __init__(self, model: str, execution: Execution, out: str, captions: bool) -> None:
        self._predictor = load(model, **vars(execution))
        self._out = out
        self._captions = captions

    def embed(self, shard: str) -> EmbeddedShard:
        return embed_shard(shard, self._predictor, self._out, captions=self._captions)
