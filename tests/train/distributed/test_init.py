import socket
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from coca.cli.training.train import leave
from coca.core.errors import ConfigError
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.init import join_from_environment
from tiny_ranks import HANGING_S, start_process
from tiny_talk import join_and_leave, join_on_accelerator

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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


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
    leave(1)


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
