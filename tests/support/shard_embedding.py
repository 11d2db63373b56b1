"""Embed tars in a process of its own, which a test kills."""

from pathlib import Path

from coca.experimental.ray.embed_shards import embed_shards
from coca.inference.loading import load
from tiny_run import kill_at_sync_number


def embed(
    model: str, out: str, tars: tuple[str, ...], ready: str, kill_at_sync: int | None = None
) -> None:
    """Embed, and leave the file `ready` as soon as the model is loaded."""
    predictor = load(model, device="cpu")
    Path(ready).touch()
    if kill_at_sync is not None:
        kill_at_sync_number(kill_at_sync)
    for _ in embed_shards(tars, predictor, out):
        pass
