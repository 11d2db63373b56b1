"""Embedding of tars on a Ray cluster; each worker loads the model once."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.core.progress import ProgressMaker, silent
from coca.data.storage.storage import full_path
from coca.workflows.collections.embed_shards import EmbeddedShard, embed_shard


def embed_shards_on_ray(
    shards: Sequence[str],
    model: str,
    out: str | Path,
    *,
    workers: int,
    captions: bool = False,
    device: str | None = None,
    address: str | None = None,
    progress: ProgressMaker = silent,
) -> Iterator[EmbeddedShard]:
    """Embed tars as `embed_shards`, with Ray workers.

    Args:
        shards: Tars that every node can read.
        model: Folder or name of the model, the same on every node.
        out: Folder that every node can write to.
        workers: Number of workers. They share the accelerators of the cluster; if there are none or
            `device` is `"cpu"`, they share its cores.
        captions: Generate captions for images that have none.
        device: `"cpu"`, `"cuda"`, or None for an accelerator if available. Ray assigns the device
            index.
        address: Address of a running cluster; default: a local cluster for this call.
        progress: Optional progress callback; counts tars.

    Yields:
        The result of each tar, as it finishes.

    Raises:
        ConfigError: `device` has an index, or the cluster has no such device.
        MissingExtraError: The extra `ray` is not installed.
    """
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(
            f"--device must be cuda, cpu or not given with Ray, which assigns the devices, "
            f"got {device}"
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
            **share_of_each(workers, ray.cluster_resources(), device=device)
        )
        pool = pools.ActorPool(
            [worker.remote(source, device, full_path(str(out)), captions) for _ in range(workers)]
        )
        with progress("embed tars", len(shards)) as bar:
            for one in pool.map_unordered(lambda actor, shard: actor.embed.remote(shard), given):
                bar.advance(1, images=one.images)
                yield replace(one, shard=given[one.shard])
    finally:
        if started_here:
            ray.shutdown()


def share_of_each(
    workers: int, cluster: Mapping[str, float], *, device: str | None
) -> dict[str, float]:
    """Compute the resources per worker so that all workers fit; an excess worker waits forever.

    Args:
        workers: Number of workers.
        cluster: Resources from `ray.cluster_resources`, such as `{"CPU": 16.0, "GPU": 2.0}`.
        device: As for `embed_shards_on_ray`.

    Raises:
        ConfigError: The device is `"cuda"`, and the cluster has no accelerator.
    """
    accelerators = int(cluster.get("GPU", 0))
    if device == "cuda" and not accelerators:
        raise ConfigError("--device is cuda, and Ray knows no accelerator in the cluster")
    if device != "cpu" and accelerators:
        # 1 / n per worker, since a worker cannot span accelerators: with 2 accelerators and 3
        # workers, 2/3 of an accelerator each would leave no room for the third.
        return {"num_gpus": 1 / math.ceil(workers / accelerators), "num_cpus": 0}
    return {"num_cpus": 1 / math.ceil(workers / max(int(cluster.get("CPU", 0)), 1))}


class _Worker:
    def __init__(self, model: str, device: str | None, out: str, captions: bool) -> None:
        from coca.inference.loading import load

        self._predictor = load(model, device=device)
        self._out = out
        self._captions = captions

    def embed(self, shard: str) -> EmbeddedShard:
        return embed_shard(shard, self._predictor, self._out, captions=self._captions)
