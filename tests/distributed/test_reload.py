"""What any number of ranks saved, any other number reads, and goes on from there."""

import pickle
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

import tiny_run
from coca.model.checkpoint import Checkpoint, step_folder
from coca.train.distributed.parallel import Kind
from tiny_ranks import Results, on_ranks
from tiny_run import newest
from tiny_shared_run import (
    KINDS,
    everything,
    first_parts,
    first_weights,
    hybrid_runs,
    in_parts,
    resumed,
)

pytestmark = pytest.mark.distributed

GROUPS = ("model", "optimizer", "ema")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two ranks and of one: whole runs, and others that ended behind step 6."""
    runs = tmp_path_factory.mktemp("runs")
    for name in ("two", "one"):
        (runs / name).mkdir()
    on_ranks(2, runs / "two", partial(first_parts, runs / "two"))
    for kind in KINDS:
        in_parts(runs / "one" / kind / "whole", "none").fit()
        shutil.copytree(runs / "one" / kind / "whole", runs / "one" / kind / "run")
        shutil.rmtree(step_folder(runs / "one" / kind / "run", 9))
    return runs


def copied(runs: Path, name: str, purpose: str) -> Path:
    return shutil.copytree(runs / name, runs / f"{name}-{purpose}")


@pytest.fixture(scope="module")
def on_two(runs: Path) -> list[Results]:
    folders = {name: copied(runs, name, "on-two") for name in ("two", "one")}
    return on_ranks(2, folders["two"], partial(resumed, folders))


@pytest.fixture(scope="module")
def on_four(runs: Path) -> list[Results]:
    folder = copied(runs, "two", "on-four")
    return on_ranks(4, folder, partial(resumed, {"two": folder}))


def assert_read(results: Results, prefix: str, checkpoint: Checkpoint) -> None:
    """Every tensor is that of the checkpoint, bit for bit."""
    read = {name for name in results if name.startswith(f"{prefix}/read/")}
    for group in GROUPS:
        for name, tensor in checkpoint.group(group).items():
            key = f"{prefix}/read/{group}/{name}"
            read.remove(key)
            assert torch.equal(results[key], tensor), key
    assert not read


def assert_ended_alike(results: Results, prefix: str, whole: Checkpoint) -> None:
    """fp32 keeps seven digits; three steps with sums in another order cost the last of them."""
    for name, weight in whole.group("model").items():
        error = (results[f"{prefix}/end/model/{name}"] - weight).norm()
        assert error <= 1e-5 * weight.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_ranks_end_to_the_bit_as_if_they_never_stopped(
    runs: Path, on_two: list[Results], kind: Kind
) -> None:
    whole = newest(runs / "two" / kind / "whole")
    assert whole.step == 9
    for results in on_two:
        for group in GROUPS:
            for name, tensor in whole.group(group).items():
                assert torch.equal(results[f"two/{kind}/end/{group}/{name}"], tensor), name
    again = tiny_run.rows(runs / "two-on-two" / kind / "run")
    assert again == tiny_run.rows(runs / "two" / kind / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_more_ranks_read_what_fewer_wrote(runs: Path, on_four: list[Results], kind: Kind) -> None:
    for results in on_four:
        assert_read(results, f"two/{kind}", newest(runs / "two" / kind / "run"))
        assert_ended_alike(results, f"two/{kind}", newest(runs / "two" / kind / "whole"))


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_reads_what_two_ranks_wrote(runs: Path, kind: Kind) -> None:
    alone = in_parts(copied(runs, "two", f"on-one-{kind}") / kind / "run", "none")
    alone.resume()
    results = everything(alone, "two/read")
    assert_read(results, "two", newest(runs / "two" / kind / "run"))
    alone.fit()
    results = everything(alone, "two/end")
    assert_ended_alike(results, "two", newest(runs / "two" / kind / "whole"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_read_what_one_process_wrote(
    runs: Path, on_two: list[Results], kind: Kind
) -> None:
    for results in on_two:
        assert_read(results, f"one/{kind}", newest(runs / "one" / kind / "run"))
        assert_ended_alike(results, f"one/{kind}", newest(runs / "one" / kind / "whole"))


def test_a_run_that_shards_the_model_before_its_weights_is_the_same_run(tmp_path: Path) -> None:
    for results in on_ranks(2, tmp_path, partial(first_weights, tmp_path)):
        usual, sharded = results["cpu"], results["meta"]
        assert usual.keys() == sharded.keys()
        for name, tensor in usual.items():
            assert torch.equal(sharded[name], tensor), name


def test_copies_of_shards_end_to_the_bit_as_if_they_never_stopped(tmp_path: Path) -> None:
    for results in on_ranks(4, tmp_path, partial(hybrid_runs, tmp_path)):
        for name, tensor in results["whole"].items():
            assert torch.equal(results["resumed"][name], tensor), name
        assert results["whole"].keys() == results["resumed"].keys()


def test_damage_to_any_file_of_ranks_is_noticed_and_the_older_one_taken(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(runs / "two" / "ddp" / "whole", tmp_path / "run")
    generator = random.Random(0)
    files = [path for path in sorted(newest(run).folder.rglob("*")) if path.is_file()]
    assert len(files) == 8
    for path in files:
        whole = path.read_bytes()
        position = generator.randrange(len(whole))
        flipped = bytes([whole[position] ^ 1])
        path.write_bytes(whole[:position] + flipped + whole[position + 1 :])
        caplog.clear()
        assert newest(run).step == 6
        assert path.name in caplog.text
        path.write_bytes(whole)
    assert newest(run).step == 9


def test_a_pickle_among_the_files_is_never_opened(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "two" / "fsdp" / "run", tmp_path / "run")
    marker = tmp_path / "opened"

    class Poison:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    folder = newest(run).folder
    for position in (folder, folder / "model"):
        (position / ".metadata").write_bytes(pickle.dumps(Poison()))
        (position / "shard-00003.pt").write_bytes(pickle.dumps(Poison()))
    in_parts(run, "none").resume()
    assert not marker.exists()


def test_the_files_of_ranks_are_checked_shards_and_nothing_is_pickled(runs: Path) -> None:
    folder = newest(runs / "two" / "fsdp" / "run").folder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    shards = {
        f"{group}/shard-0000{rank}-model-00001-of-00001.safetensors"
        for group in GROUPS
        for rank in (1, 2)
    }
    assert files == {*shards, "state.json", "commit.json"}
