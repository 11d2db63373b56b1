import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from coca.cli.app import leave_process_group
from coca.core.errors import CocaError, ConfigError, DataError
from coca.train.distributed.context import (
    DistributedContext,
    join_from_environment,
    lost_ranks_reported,
)
from free_ports import free_port
from joining_ranks import (
    join_and_leave,
    join_on_accelerator,
    refuse,
    talk,
    wait_for_main,
    wait_for_main_that_ends,
)
from tiny_ranks import HANGING_S, on_ranks, start_process


def test_a_process_on_its_own_is_a_world_of_one() -> None:
    world = DistributedContext.current()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.all_reduce_max([3, 1]) == [3, 1]
    assert world.gather("word") == ["word"]
    assert world.broadcast_from_main(lambda: 5) == 5
    with pytest.raises(DataError):
        world.broadcast_from_main(refuse)
    world.barrier()


@pytest.mark.distributed
def test_ranks_agree(tmp_path: Path) -> None:
    received = on_ranks(2, tmp_path, talk)
    assert [own.pop("rank") for own in received] == [[0, 2], [1, 2]]
    for own in received:
        assert own == {
            "all_reduce_max": [1, 0, 7],
            "gathered": ["rank 0", "rank 1"],
            "of main": "of 0",
            "refused": "the main rank refuses (test)",
        }


@pytest.mark.distributed
def test_ranks_wait_for_the_main_one_longer_than_for_each_other(tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, wait_for_main) == ["done", "done"]


@pytest.mark.distributed
def test_a_main_rank_that_ends_while_others_wait_for_it_raises_at_once(tmp_path: Path) -> None:
    ranks = [start_process(wait_for_main_that_ends, tmp_path, rank) for rank in range(2)]
    for process in ranks:
        process.join(HANGING_S)
    assert [process.exitcode for process in ranks] == [-signal.SIGKILL, 0]
    assert "rank 1 cannot continue: another rank has ended" in (tmp_path / "error").read_text()


GLOO = "[/pytorch/gloo/tcp/pair.cc:537] Read error [127.0.0.1]:11: Connection reset. Check logs."


def test_a_rank_that_lost_another_raises_a_readable_error() -> None:
    with (
        pytest.raises(CocaError, match=r"rank 1 cannot continue: .*: Read error .* reset; start"),
        lost_ranks_reported(DistributedContext(1, 2)),
    ):
        raise RuntimeError(GLOO)
    with (
        pytest.raises(CocaError, match="cannot be reached: no rendezvous"),
        lost_ranks_reported(DistributedContext(0, 2)),
    ):
        raise distributed.DistNetworkError("no rendezvous")


@pytest.mark.parametrize(
    ("world", "words"), [(DistributedContext(), GLOO), (DistributedContext(0, 2), "out of memory")]
)
def test_other_errors_keep_their_kind(world: DistributedContext, words: str) -> None:
    with (
        pytest.raises(RuntimeError, match=words.split(maxsplit=1)[-1][:9]),
        lost_ranks_reported(world),
    ):
        raise RuntimeError(words)


VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


def test_a_process_that_torchrun_did_not_start_stays_on_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert join_from_environment("auto") == DistributedContext()
    assert not distributed.is_initialized()


def test_one_accelerator_for_all_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=r"cuda:1 is one accelerator, but 2 .* device to cuda,"):
        join_from_environment("cuda:1")


@pytest.mark.distributed
@pytest.mark.parametrize(("code", "left"), [(None, 0), (130, 130), ("failed", 1)])
def test_ranks_join_by_the_environment_and_leave_with_their_code(
    tmp_path: Path, code: int | str | None, left: int
) -> None:
    port = free_port()
    ranks: list[ForkServerProcess] = [
        start_process(join_and_leave, tmp_path, rank, port, code) for rank in range(2)
    ]
    for process in ranks:
        process.join(HANGING_S)
    assert [process.exitcode for process in ranks] == [left, left]
    assert [(tmp_path / name).read_text() for name in "01"] == ["0/2 1/2"] * 2


def test_leaving_does_nothing_to_a_process_on_its_own() -> None:
    leave_process_group(1)


@pytest.mark.distributed
def test_ranks_that_start_again_are_not_led_to_those_that_were_killed(tmp_path: Path) -> None:
    kept = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    stale = free_port()
    kept.set("coca/meeting", str(stale))
    early = start_process(join_and_leave, tmp_path, 1, kept.port, 0, "True")
    while not (tmp_path / f"port {stale}").exists():
        time.sleep(0.01)
    late = start_process(join_and_leave, tmp_path, 0, kept.port, 0, "True")
    for process in (early, late):
        process.join(HANGING_S)
        assert process.exitcode == 0
    assert [(tmp_path / name).read_text() for name in "01"] == ["0/2 1/2"] * 2


@pytest.mark.gpu
def test_ranks_take_an_accelerator_each(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator here")
    process = start_process(join_on_accelerator, free_port())
    process.join(120)
    assert process.exitcode == 0
