import socket
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from torch import distributed

from coca.cli.train import leave
from coca.core.errors import CocaError, ConfigError, DataError
from coca.train.torchrun import join_from_environment
from coca.train.world import World, lost_ranks_told
from tiny_ranks import on_ranks, start_process
from tiny_talk import join_and_leave, join_on_accelerator, refuse, talk

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


def test_a_process_on_its_own_is_a_world_of_one() -> None:
    world = World.current()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.largest([3, 1]) == [3, 1]
    assert world.gather("word") == ["word"]
    assert world.from_main(lambda: 5) == 5
    with pytest.raises(DataError):
        world.from_main(refuse)
    world.barrier()


def test_a_process_that_torchrun_did_not_start_stays_on_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert join_from_environment("auto") == World()
    assert not distributed.is_initialized()


def test_one_accelerator_for_all_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=r"cuda:1 is one accelerator, but 2 .* device to cuda,"):
        join_from_environment("cuda:1")


@pytest.mark.distributed
def test_ranks_agree(tmp_path: Path) -> None:
    told = on_ranks(2, tmp_path, talk)
    assert [own.pop("rank") for own in told] == [[0, 2], [1, 2]]
    for own in told:
        assert own == {
            "largest": [1, 0, 7],
            "gathered": ["rank 0", "rank 1"],
            "of main": "of 0",
            "refused": "the main rank refuses (test)",
        }


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
        process.join(60)
    assert [process.exitcode for process in ranks] == [left, left]
    assert [(tmp_path / name).read_text() for name in "01"] == ["0/2 1/2"] * 2


def test_leaving_does_nothing_to_a_process_on_its_own() -> None:
    leave(1)


GLOO = "[/pytorch/gloo/tcp/pair.cc:537] Read error [127.0.0.1]:11: Connection reset. Check logs."


def test_a_rank_that_lost_another_says_so_in_a_sentence() -> None:
    with (
        pytest.raises(CocaError, match=r"rank 1 cannot go on, .*: Read error .* reset; started"),
        lost_ranks_told(World(1, 2)),
    ):
        raise RuntimeError(GLOO)
    with (
        pytest.raises(CocaError, match="cannot be reached: no rendezvous"),
        lost_ranks_told(World(0, 2)),
    ):
        raise distributed.DistNetworkError("no rendezvous")


@pytest.mark.parametrize(("world", "words"), [(World(), GLOO), (World(0, 2), "out of memory")])
def test_other_errors_keep_their_kind(world: World, words: str) -> None:
    with pytest.raises(RuntimeError, match=words.split(maxsplit=1)[-1][:9]), lost_ranks_told(world):
        raise RuntimeError(words)


@pytest.mark.gpu
def test_ranks_take_an_accelerator_each(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator here")
    process = start_process(join_on_accelerator, free_port())
    process.join(120)
    assert process.exitcode == 0
