"""Ranks that join, talk to each other and leave."""

import os
from pathlib import Path

import torch
from torch import distributed

from coca.cli.train import leave
from coca.core.errors import DataError
from coca.train.torchrun import join_from_environment
from coca.train.world import World


def refuse() -> None:
    raise DataError("the main rank refuses", reason="test")


def talk() -> dict[str, object]:
    """What each method gives on this rank."""
    world = World.current()
    world.barrier()
    try:
        world.from_main(refuse)
        refused = ""
    except DataError as error:
        refused = f"{error} ({error.reason})"
    return {
        "rank": [world.rank, world.size],
        "largest": world.largest([world.rank, -world.rank, 7]),
        "gathered": world.gather(f"rank {world.rank}"),
        "of main": world.from_main(lambda: f"of {world.rank}"),
        "refused": refused,
    }


def join_and_leave(
    folder: Path, rank: int, port: int, code: int | str | None, kept_store: str = "False"
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = kept_store
    (folder / "started").touch()
    world = join_from_environment("cpu")
    (folder / str(rank)).write_text(" ".join(world.gather(f"{world.rank}/{world.size}")))
    leave(code)


def join_on_accelerator(port: int) -> None:
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = join_from_environment("auto")
    assert torch.cuda.current_device() == 0
    total = torch.ones(1, device="cuda")
    distributed.all_reduce(total)
    assert (world.size, float(total)) == (1, 1.0)
    leave(0)
