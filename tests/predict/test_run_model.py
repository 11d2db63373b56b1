"""Models of runs that are still training, and of single checkpoints."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

import coca
from coca.core.errors import ModelError
from coca.model.checkpoint import checkpoint_folders
from coca.predict.run_model import model_of_run
from coca.workflows.training.pretrain import pretrain
from tiny_ranks import Results, on_ranks
from tiny_workflows import recipe, run_on_this_rank, stopping_at, write_squares


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "pictures")


def same_weights(first: Path, second: Path) -> bool:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("train.ema.decay=0.5",),
    ],
)
def test_the_last_checkpoint_is_the_finished_model(
    images: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    result = pretrain(recipe(images, run, *changes))
    newest = checkpoint_folders(run)[0]
    assert same_weights(model_of_run(newest), result.model)
    assert coca.load(newest).fingerprint == coca.load(result.model).fingerprint


def test_adapters_are_merged_as_in_the_finished_model(images: Path, tmp_path: Path) -> None:
    first = pretrain(recipe(images, tmp_path / "first")).run
    changes = (f"init_from={first}", "lora.rank=2", "train.steps=6")
    result = pretrain(recipe(images, tmp_path / "second", *changes))
    assert same_weights(model_of_run(checkpoint_folders(result.run)[0]), result.model)


def test_a_run_is_its_newest_weights(images: Path, tmp_path: Path) -> None:
    """A killed run has no model; one that goes on has an older model."""
    run = tmp_path / "run"
    with stopping_at(7):
        pretrain(recipe(images, run))
    assert model_of_run(run) == run / "model"
    shutil.copytree(run, tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "model")
    assert same_weights(model_of_run(tmp_path / "killed"), run / "model")
    pretrain(recipe(images, run))
    (run / "model" / "training.json").write_text(json.dumps({"step": 7}))
    assert model_of_run(run).parent == checkpoint_folders(run)[0]
    (run / "model" / "training.json").unlink()
    assert model_of_run(run) == run / "model"


def test_the_checkpoint_of_two_ranks_loads_alike(tmp_path: Path) -> None:
    write_squares(tmp_path / "pictures")
    results: list[Results] = on_ranks(2, tmp_path, partial(run_on_this_rank, tmp_path))
    assert results[0]["step"] == 12
    run = tmp_path / "run"
    assert same_weights(model_of_run(checkpoint_folders(run)[0]), run / "model")


def test_a_run_without_a_checkpoint_is_reported(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ModelError, match="is a run without a checkpoint so far"):
        coca.load(tmp_path)


def test_a_checkpoint_away_from_its_run_is_reported(images: Path, tmp_path: Path) -> None:
    pretrain(recipe(images, tmp_path / "run"))
    alone = shutil.copytree(checkpoint_folders(tmp_path / "run")[0], tmp_path / "alone")
    with pytest.raises(ModelError, match="contains step 12"):
        coca.load(alone)


def test_a_damaged_checkpoint_is_reported_and_not_converted(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(recipe(images, run))
    newest, before = checkpoint_folders(run)
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"is not as it was written; load another checkpoint"):
        coca.load(newest)
    shutil.rmtree(run / "model")
    assert model_of_run(run).parent == before


def test_a_folder_that_cannot_be_written_is_read_by_the_cache(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = tmp_path / "run"
    pretrain(recipe(images, run))
    newest = checkpoint_folders(run)[0]
    (newest / ".incomplete-converted").write_text("in the way")
    (newest / "converted").write_text("in the way")
    assert (tmp_path / "cache") in model_of_run(newest).parents
