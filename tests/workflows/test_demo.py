"""The demo itself, with a model that trains for seconds; then again from what is there."""

import json
import re
from pathlib import Path

import pytest

from coca.core.errors import CocaError
from coca.inference.predictor import load
from coca.workflows import demo as workflow
from coca.workflows.demo import DemoResult, demo

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain" / "emoji.yaml"
QUICK = (
    "train.steps=6",
    "train.schedule.warmup=2",
    "train.log_every=2",
    "data.loader.batch_size=16",
    "data.loader.workers=0",
)


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> DemoResult:
    folder = tmp_path_factory.mktemp("demo")
    return demo(folder, recipe=RECIPE, overrides=QUICK, tell=told.append)


@pytest.mark.slow
def test_every_stage_tells_what_it_does_and_leaves_its_files(
    finished: DemoResult, told: list[str]
) -> None:
    stages = ("packing", "training", "evaluating", "writing", "indexing", "captioning")
    assert [line for stage in stages for line in told if line.startswith(stage)]
    for path in (finished.model, finished.index, finished.report, finished.example):
        assert path.exists()
    assert load(finished.model).embed_dim == 128


@pytest.mark.slow
def test_the_report_shows_scores_searches_and_captions_in_one_file(finished: DemoResult) -> None:
    page = finished.report.read_text()
    links = re.findall(r'(?:src|href)="([^"#]{5})', page)
    assert len(links) > 100
    assert set(links) == {"data:"}
    for words in ("raw pixels", "chance", "red car", "Food &amp; Drink", "word for word"):
        assert words in page


@pytest.mark.slow
def test_scores_come_with_chance_and_floor_with_and_without_flags(finished: DemoResult) -> None:
    scores = json.loads((finished.folder / "evaluation.json").read_text())["scores"]
    assert len(scores) == 6
    assert scores["retrieval all"]["samples"] == 1914
    assert scores["retrieval without flags"]["samples"] == 1914 - 270
    # Seconds of training change nothing about the pixels: this floor is a fact of the data.
    floor = scores["pixel_floor without flags"]
    assert 0.03 < floor["text_to_image_recall@1"] < 0.1


@pytest.mark.slow
def test_a_second_demo_makes_nothing_again(finished: DemoResult) -> None:
    lines: list[str] = []
    model = finished.model / "model.safetensors"
    before = load(finished.model).fingerprint
    shards = sorted((finished.folder / "shards").rglob("*.tar"))
    times = [path.stat().st_mtime_ns for path in shards]
    again = demo(finished.folder, recipe=RECIPE, overrides=QUICK, tell=lines.append)
    assert again == finished
    assert load(finished.model).fingerprint == before
    assert [path.stat().st_mtime_ns for path in shards] == times
    assert not any(line.startswith(("packing", "evaluating", "writing")) for line in lines)
    assert model.exists()


def test_a_demo_away_from_the_project_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(CocaError, match="from the project's folder"):
        demo(tmp_path, recipe=tmp_path / "nowhere.yaml")


def test_the_recipe_learns_from_one_vendor_only() -> None:
    text = RECIPE.read_text()
    assert workflow.SEEN in text
    assert workflow.UNSEEN not in text
