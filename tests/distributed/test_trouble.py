"""What goes wrong on one of two ranks ends both, by one sentence, and nothing is lost."""

from functools import partial
from pathlib import Path

import pytest

import tiny_run
from coca.model.checkpoint import CHECKPOINT_FOLDER
from tiny_ranks import on_ranks
from tiny_shared_run import Outcome, all_scenes

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trouble")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Outcome]]:
    """Every scene, as each rank saw it."""
    return on_ranks(2, folder, partial(all_scenes, folder))


def steps(folder: Path) -> list[int]:
    return tiny_run.saved_steps(folder)


def alike(ranks: list[dict[str, Outcome]], scene: str, *names: str) -> Outcome:
    """What the main rank saw; the other saw the same."""
    main, other = (outcomes[scene] for outcomes in ranks)
    for name in ("step", "error", "interrupted", "terminated", "bad_steps", *names):
        assert main[name] == other[name], name
    return main


def test_an_image_that_is_not_finite_is_skipped_by_all_and_reported_once_with_its_rank(
    ranks: list[dict[str, Outcome]],
) -> None:
    for scene, steps in (("bad_steps", (3, 7)), ("bad_steps_in_pieces", (3,))):
        outcome = alike(ranks, scene)
        assert (outcome["step"], outcome["error"]) == (12, "")
        assert outcome["bad_steps"] == len(steps)
        assert outcome["log"] == [
            f"step {step} skipped: contrastive is not finite "
            f"(rank 1, samples {8 * step - 4} to {8 * step - 1})"
            for step in steps
        ]
        assert ranks[1][scene]["log"] == []
        assert all(outcomes[scene]["finite"] for outcomes in ranks)


def test_a_gradient_in_pieces_that_is_not_finite_is_named(ranks: list[dict[str, Outcome]]) -> None:
    outcome = alike(ranks, "bad_gradient")
    assert outcome["log"] == [
        "step 1 skipped: the gradient of image_projection.weight is not finite (samples 0 to 7)"
    ]


def test_too_many_bad_steps_stop_all_with_the_last_good_checkpoint(
    ranks: list[dict[str, Outcome]], folder: Path
) -> None:
    outcome = alike(ranks, "too_many_bad_steps")
    assert "3 steps in a row were not finite, last step 9 by contrastive" in outcome["error"]
    assert "the last good checkpoint is" in outcome["error"]
    assert steps(folder / "too_many_bad_steps") == [5]


def test_data_that_end_on_one_rank_cost_no_step(
    ranks: list[dict[str, Outcome]], folder: Path
) -> None:
    outcome = alike(ranks, "data_that_end_on_rank_1", "again")
    assert outcome["error"] == "DataError: the shard photos-003.tar has vanished"
    assert (outcome["step"], outcome["again"]) == (7, 12)
    whole = tiny_run.rows(folder / "no_space_for_a_row")
    assert tiny_run.rows(folder / "data_that_end_on_rank_1") == whole


def test_a_signal_to_one_rank_stops_all_behind_the_same_step(
    ranks: list[dict[str, Outcome]], folder: Path
) -> None:
    outcome = alike(ranks, "signal_to_rank_1")
    assert (outcome["step"], outcome["interrupted"], outcome["terminated"]) == (4, True, True)
    assert steps(folder / "signal_to_rank_1") == [4]


def test_a_disk_that_is_full_on_one_rank_is_reported_at_the_next_step_and_can_be_freed(
    ranks: list[dict[str, Outcome]], folder: Path
) -> None:
    outcome = alike(ranks, "full_disk_of_rank_1", "kept", "again")
    assert outcome["error"].startswith("StorageError: rank 1 cannot write ")
    assert "No space left on device; the last good checkpoint is " in outcome["error"]
    # The save of step 10 failed in the background; what is there was written before.
    assert outcome["kept"] == ["step_00000005"]
    assert 10 <= outcome["step"] <= 12
    assert outcome["again"] == 12
    assert 12 in steps(folder / "full_disk_of_rank_1")


def test_ranks_with_folders_of_their_own_make_no_step(
    ranks: list[dict[str, Outcome]], folder: Path
) -> None:
    outcome = alike(ranks, "folders_of_their_own")
    assert outcome["error"] == (
        "StorageError: the run folder run of rank 1 is not that of rank 0; put it on a file system "
        "that all nodes share"
    )
    assert outcome["step"] == 0
    assert not list((folder / "folders_of_their_own").glob(f"*/run/{CHECKPOINT_FOLDER}/*"))


def test_a_row_that_the_main_rank_cannot_write_stops_all_and_is_written_later(
    ranks: list[dict[str, Outcome]], folder: Path
) -> None:
    outcome = alike(ranks, "no_space_for_a_row", "again")
    assert outcome["error"].endswith("cannot be written: No space left on device")
    assert (outcome["step"], outcome["again"]) == (4, 12)
    rows = tiny_run.rows(folder / "no_space_for_a_row")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]


def test_a_run_that_the_main_rank_refuses_is_refused_by_all(
    ranks: list[dict[str, Outcome]],
) -> None:
    outcome = alike(ranks, "run_of_another_model")
    assert outcome["error"].startswith("ConfigError: ")
    assert "model.initial_temperature is 0.07 there and 0.1 here" in outcome["error"]


def test_training_goes_on_during_a_save_and_no_save_overtakes_another(
    ranks: list[dict[str, Outcome]], folder: Path
) -> None:
    for outcomes in ranks:
        events = outcomes["slow_saves"]["events"]
        assert [name for name, _ in events] == ["begin", "end"] * 3
        assert events[1][1] > 2, "no step was made while that of step 2 was written"
        assert outcomes["slow_saves"]["kept"] == ["step_00000004", "step_00000006"]
    assert (folder / "slow_saves" / CHECKPOINT_FOLDER / "step_00000006" / "commit.json").exists()
