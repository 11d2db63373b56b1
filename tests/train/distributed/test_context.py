import signal
from pathlib import Path

import pytest
from torch import distributed

from coca.core.errors import CocaError, DataError
from coca.train.distributed.context import DistributedContext, lost_ranks_reported
from tiny_ranks import HANGING_S, on_ranks, start_process
from tiny_talk import refuse, talk, wait_for_main, wait_for_main_that_ends


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
    assert "rank 1 cannot continue: another rank has ended" in (tmp_path / "said").read_text()


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
