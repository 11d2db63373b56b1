"""From runs to a shipped model, at tiny size: real tasks on noise, so bookkeeping alone counts."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from coca.core.errors import ConfigError, DataError, ModelError
from coca.data.sample import Sample
from coca.data.sources.base import SourceConfig
from coca.inference.loading import load
from coca.release import release_nano
from coca.release.release_nano import release_model, result_tables, score_run
from coca.tasks import TASKS, TaskConfig
from tiny_data import picture
from tiny_folder import write_folder
from tiny_model import write_model

MACHINE = {"cpu": "a small processor", "cores": 2}


def write_run(root: Path, seed: int, *, code: bool = True) -> Path:
    """What a finished training leaves."""
    write_model(root / "model", seed=seed)
    recipe = {"seed": seed, "train": {"steps": 1200}, "data": {"loader": {"batch_size": 100}}}
    start = {
        "machine": MACHINE,
        "started": "2026-01-02T03:04:05",
        "code": {"commit": "0123456789abcdef", "dirty": False} if code else None,
    }
    (root / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    (root / "record.json").write_text(json.dumps({"starts": [start]}), encoding="utf-8")
    rows = "".join(json.dumps({"step": n, "pairs_per_s": 50.0}) + "\n" for n in (1, 2))
    (root / "metrics.jsonl").write_text(rows, encoding="utf-8")
    return root


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / f"run{seed}", seed) for seed in (3, 4)]


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    samples = [
        Sample(f"s{n}", picture(n), captions=(f"thing {n}",), labels=(f"thing {n}",))
        for n in range(4)
    ]
    written = write_folder(tmp_path / "drawings", samples)
    return replace(written, name="strange drawings")


@pytest.fixture
def tasks(source: SourceConfig) -> list[TaskConfig]:
    return [
        TaskConfig(task="retrieval", data=source),
        TaskConfig(task="image_retrieval", data=source, reference=source),
        TaskConfig(task="zero_shot", data=source),
        TaskConfig(task="pixel_floor", data=source, reference=source),
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The terms that lie beside packed sets."""

    def terms(name: str, licence: str, pictures: dict[str, int]) -> dict[str, object]:
        return {
            "name": name,
            "vendor": name,
            "package": f"@icons/{name}",
            "version": "1.2.3",
            "licence": licence,
            "author": f"The {name} people",
            "source": f"https://example.org/{name}",
            "pictures": pictures,
        }

    sets = [
        terms("noto", "Apache-2.0", {"train": 1452, "heldout": 200}),
        terms("openmoji", "CC-BY-SA-4.0", {"test": 1714, "heldout": 200}),
        terms("emojibase", "MIT", {}),
    ]
    folder = tmp_path / "nano-data"
    folder.mkdir()
    (folder / "sets.json").write_text(json.dumps({"sets": sets}), encoding="utf-8")
    return folder


def refuse(name: str) -> Callable[..., object]:
    """A task that must not run; to look for it is allowed."""

    def run(*_: object, **__: object) -> object:
        raise AssertionError(f"task {name} is run again")

    return run


def test_the_first_run_is_shipped_in_half_precision_and_says_the_same(
    runs: list[Path], tasks: list[TaskConfig], data: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    shipped = release_model(runs, tasks, tmp_path / "weights" / "nano", data=data, log=told.append)
    names = {path.name for path in shipped.folder.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "processor.json",
        "README.md",
    }
    with safe_open(shipped.folder / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert shipped.size_bytes == sum(path.stat().st_size for path in shipped.folder.iterdir())
    small, large = load(shipped.folder), load(runs[0])
    pictures = [picture(n) for n in range(4)]
    difference = np.abs(small.embed_images(pictures) - large.embed_images(pictures)).max()
    assert 0 < difference <= shipped.largest_change + 1e-7
    assert shipped.largest_change < release_nano.TOLERANCE
    assert [line.split()[0] for line in told] == ["scoring", "scoring", "writing"]


def test_the_card_names_people_licences_seeds_and_limits(
    runs: list[Path], tasks: list[TaskConfig], data: Path, tmp_path: Path
) -> None:
    shipped = release_model(runs, tasks, tmp_path / "nano", data=data)
    card = (shipped.folder / "README.md").read_text(encoding="utf-8")
    for words in (
        'coca.load("nano")',
        "Apache-2.0, The noto people",
        "1,452 drawings; 200 held out for tests",
        "1,914 drawings, for tests only",
        "labels and tags of all concepts",
        "Seeds 3, 4; the weights are those of seed 3",
        "1,200 steps of 100 pairs, about 40 minutes on 2 cores of a small processor",
        "commit 0123456789ab",
        "strange drawings",
        "raw pixels",
        "not photographs",
    ):
        assert words in card


def test_scores_are_kept_in_each_run_and_floors_are_measured_once(
    runs: list[Path],
    tasks: list[TaskConfig],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release_model(runs, tasks, tmp_path / "nano", data=data)
    counts = [
        len(json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["scores"])
        for run in runs
    ]
    assert counts == [4, 3]
    before = (tmp_path / "nano" / "README.md").read_bytes()
    monkeypatch.setattr(TASKS, "get", refuse)
    release_model(runs, tasks, tmp_path / "nano", data=data)
    assert (tmp_path / "nano" / "README.md").read_bytes() == before


def test_a_model_that_was_trained_on_is_scored_again(
    runs: list[Path], tasks: list[TaskConfig]
) -> None:
    first = score_run(runs[0], tasks)
    shutil.rmtree(runs[0] / "model")
    shutil.copytree(runs[1] / "model", runs[0] / "model")
    assert score_run(runs[0], tasks) == score_run(runs[1], tasks) != first


def test_changed_settings_of_a_task_are_scored_anew(
    runs: list[Path], tasks: list[TaskConfig], source: SourceConfig
) -> None:
    told: list[str] = []
    score_run(runs[0], tasks, log=told.append)
    fewer = [*tasks[1:], TaskConfig(task="retrieval", data=source, limit=2)]
    scores = score_run(runs[0], fewer, log=told.append)
    assert scores["strange drawings"]["retrieval"]["samples"] == 2
    assert [line.rpartition(" on ")[2] for line in told] == ["4 tasks", "1 tasks"]


def scores_of(value: float) -> release_nano.Scores:
    return {
        "some drawings": {
            "retrieval": {
                "text_to_image_recall@10": value,
                "chance_text_to_image_recall@10": 0.01,
                "samples": 1055,
            },
            "image_retrieval": {
                "image_to_image_recall@1": value / 2,
                "chance_image_to_image_recall@1": 0.001,
                "samples": 1055,
            },
        }
    }


def test_tables_tell_mean_and_spread_beside_chance_and_floors() -> None:
    seeds: Sequence[release_nano.Scores] = [scores_of(value) for value in (0.5, 0.6, 0.64)]
    seeds[0]["some drawings"]["pixel_floor"] = {
        "text_to_image_recall@10": 0.2,
        "image_to_text_recall@1": 0.11,
        "samples": 1055,
    }
    (table,) = result_tables(seeds)
    assert table.title == "some drawings"
    assert [list(row) for row in table.rows] == [
        ["text to image, R@10", "0.580", "0.500 to 0.640", "0.0100", "0.200", ""],
        ["image to image, R@1", "0.290", "0.250 to 0.320", "0.0010", "0.110", ""],
    ]
    assert "3 seeds; 1,055 drawings" in table.note


def test_a_single_seed_claims_no_spread() -> None:
    (table,) = result_tables([scores_of(0.5)])
    assert table.note == "One seed; 1,055 drawings."
    assert "spread" not in table.columns
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_weights_that_are_too_large_or_change_too_much_stay_out(
    runs: list[Path],
    tasks: list[TaskConfig],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release_nano, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="at most 1,000 go into the package"):
        release_model(runs, tasks, tmp_path / "nano", data=data)
    monkeypatch.setattr(release_nano, "TOLERANCE", 0.0)
    with pytest.raises(ModelError, match="half precision changes embeddings"):
        release_model(runs, tasks, tmp_path / "nano", data=data)
    assert not (tmp_path / "nano").exists()


def test_without_runs_or_terms_there_is_nothing_to_ship(
    runs: list[Path], tasks: list[TaskConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no run is named"):
        release_model([], tasks, tmp_path / "nano", data=tmp_path)
    with pytest.raises(DataError, match=r"sets.json cannot be read"):
        release_model(runs, tasks, tmp_path / "nano", data=tmp_path)


def test_a_run_from_an_installed_copy_names_no_commit(
    tasks: list[TaskConfig], data: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", 0, code=False)
    shipped = release_model([run], tasks[:1], tmp_path / "nano", data=data)
    assert "commit" not in (shipped.folder / "README.md").read_text(encoding="utf-8")
