"""Embedding of tars on a cluster of Ray, where there is one; each worker loads the model once."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coca.core.extras import require
from coca.core.progress import ProgressMaker, silent
from coca.workflows.embed_shards import EmbeddedShard, embed_shard


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
    """As `embed_shards`, by workers of Ray.

    Args:
        shards: Tars that every node can read.
        model: Folder or name of the model, the same on every node.
        out: Folder that every node can write.
        workers: How many; each takes one accelerator if `device` is one, else one core.
        captions: Let the model write the captions of pictures that come without one.
        device: As for `coca.load`.
        address: Of a running cluster; default: one is started on this machine, and ended.
        progress: Counts the tars.

    Yields:
        What became of each tar, as it is done.

    Raises:
        MissingExtraError: The extra `ray` is not installed.
    """
    ray = require("ray", extra="ray")
    pools = require("ray.util", extra="ray")
    started_here = not ray.is_initialized()
    if started_here and address is None:
        cores = max(workers, os.cpu_count() or 1)
        ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    elif started_here:
        ray.init(address, log_to_driver=False)
    resources: dict[str, Any] = (
        {"num_gpus": 1} if (device or "").startswith("cuda") else {"num_cpus": 1}
    )
    try:
        worker = ray.remote(_Worker).options(**resources)
        pool = pools.ActorPool(
            [
                worker.remote(model, device, str(Path(out).absolute()), captions)
                for _ in range(workers)
            ]
        )
        with progress("embed tars", len(shards)) as bar:
            for one in pool.map_unordered(lambda actor, shard: actor.embed.remote(shard), shards):
                bar.advance(1, pictures=one.pictures)
                yield one
    finally:
        if started_here:
            ray.shutdown()


class _Worker:
    def __init__(self, model: str, device: str | None, out: str, captions: bool) -> None:
        from coca.inference.loading import load

        self._predictor = load(model, device=device)
        self._out = out
        self._captions = captions

    def embed(self, shard: str) -> EmbeddedShard:
        return embed_shard(shard, self._predictor, self._out, captions=self._captions)
