"""Ranks that join, talk to each other and leave."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from coca.cli.app import leave_process_group
from coca.core.errors import CocaError, DataError
from coca.train.distributed import context as distributed_init
from coca.train.distributed.context import DistributedContext, join_from_environment


def refuse() -> None:
    raise DataError("the main rank refuses", reason="test")


def talk() -> dict[str, object]:
    """What each method gives on this rank."""
    world = DistributedContext.current()
    world.barrier()
    try:
        world.broadcast_from_main(refuse)
        refused = ""
    except DataError as error:
        refused = f"{error} ({error.reason})"
    return {
        "rank": [world.rank, world.size],
        "all_reduce_max": world.all_reduce_max([world.rank, -world.rank, 7]),
        "gathered": world.gather(f"rank {world.rank}"),
        "of main": world.broadcast_from_main(lambda: f"of {world.rank}"),
        "refused": refused,
    }


def wait_for_main() -> str:
    """What the main rank gives after longer than other exchanges may take."""
    world = DistributedContext.current()
    world.broadcast_from_main(lambda: None)
    # From here on the ranks use the group of this call alone.
    limit = timedelta(seconds=0.1)
    distributed.distributed_c10d._set_pg_timeout(limit, distributed.group.WORLD)

    def slow() -> str:
        time.sleep(5 * limit.total_seconds())
        return "done"

    return world.broadcast_from_main(slow)


def wait_for_main_that_ends(folder: Path, rank: int) -> None:
    """Rank 0 is killed while rank 1 waits for it; rank 1 saves its error."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    world = DistributedContext.current()
    world.broadcast_from_main(lambda: None)
    try:
        world.broadcast_from_main(lambda: os.kill(os.getpid(), signal.SIGKILL))
    except CocaError as error:
        (folder / "error").write_text(str(error))
    os._exit(0)


def join_and_leave(
    folder: Path, rank: int, port: int, code: int | str | None, kept_store: str = "False"
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = kept_store

    def note_and_connect(host: str, port: int, **options: Any) -> Any:
        (folder / f"port {port}").touch()
        return TCPStore(host, port, **options)

    # Undone by the end of the process.
    patch = pytest.MonkeyPatch()
    patch.setattr(distributed_init, "TCPStore", note_and_connect)
    patch.setattr(distributed_init, "_ATTEMPT", timedelta(seconds=0.5))
    world = join_from_environment("cpu")
    (folder / str(rank)).write_text(" ".join(world.gather(f"{world.rank}/{world.size}")))
    leave_process_group(code)


def join_on_accelerator(port: int) -> None:
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = join_from_environment("auto")
    assert torch.cuda.current_device() == 0
    total = torch.ones(1, device="cuda")
    distributed.all_reduce(total)
    assert (world.size, float(total)) == (1, 1.0)
    leave_process_group(0)
