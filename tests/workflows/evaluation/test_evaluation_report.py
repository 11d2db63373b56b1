import re
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import ConfigError
from coca.data.sources.folder import FolderConfig
from coca.tasks import TaskConfig, TaskResult
from coca.tasks.task import Example, ImageRow, ReportSamples, per_class_results
from coca.workflows.evaluation.evaluation_report import (
    Benchmark,
    PublishedModel,
    _sections,
    benchmark_named,
    overview,
    published,
)
from coca.workflows.evaluation.report import ReportTable, render, render_markdown
from tiny_data import image_bytes

REFERENCE = Path(__file__).parents[3] / "shared/reference"


def test_a_score_is_found_by_its_metric_or_omitted() -> None:
    benchmark = benchmark_named("coco_captions")
    first = benchmark.models[0]
    assert (benchmark.score(first, "cider"), benchmark.score(first, "bleu@1")) == (1.436, None)


def test_each_model_has_a_figure_for_each_metric() -> None:
    model = PublishedModel(model="x", source="paper", table="ReportTable 1", scores=(0.5,))
    with pytest.raises(ConfigError, match="x has 1 scores for 2 metrics"):
        Benchmark(title="t", metrics=("a", "b"), models=(model,))


def test_every_figure_has_a_source_and_is_a_share_or_a_cider() -> None:
    for benchmark in published().benchmarks.values():
        for model in benchmark.models:
            assert model.source in published().sources
            for metric, score in zip(benchmark.metrics, model.scores, strict=True):
                assert score is None or 0 < score < (10 if metric == "cider" else 1)


def test_every_figure_is_in_the_collected_facts() -> None:
    if not REFERENCE.is_dir():
        pytest.skip("the collected facts on the paper are not here")
    text = "".join((REFERENCE / name).read_text() for name in ("paper.md", "peers.md"))
    facts = {float(number) for number in re.findall(r"\d+\.\d+|(?<=[/ |])\.\d+|\d+", text)}
    scores = [
        round(100 * score, 4)
        for benchmark in published().benchmarks.values()
        for model in benchmark.models
        for score in model.scores
        if score is not None
    ]
    assert [score for score in scores if score not in facts] == []


NAMES = [f"class {n:02d}" for n in range(45)]


def config(task: str, name: str, benchmark: str = "") -> TaskConfig:
    data = FolderConfig(path="x", name=name)
    return TaskConfig(task=task, data=data, benchmark=benchmark)


def retrieval() -> TaskResult:
    metrics = {
        "text_to_image_recall@1": 0.25,
        "chance_text_to_image_recall@1": 0.01,
        "image_to_text_recall@1": 0.5,
    }
    strip = ImageRow(
        "“a dog”",
        (Example(("0.31",), image_bytes(1), correct=True), Example(("0.2",), image_bytes(2))),
    )
    return TaskResult(
        "retrieval",
        metrics,
        1000,
        bad=("a: broken", "b: broken"),
        headline=("text_to_image_recall@1", "image_to_text_recall@1"),
        report_samples=ReportSamples((strip,)),
    )


def test_one_table_holds_all_tasks_with_published_figures_next_to_ours() -> None:
    table = overview(
        [
            (config("retrieval", "COCO", "coco_retrieval"), retrieval()),
            (config("counting", "mine"), TaskResult("counting", {"mean": 0.5, "other": 1}, 3)),
        ]
    )
    assert list(table.columns) == [
        "task", "score", "this model", "chance", "the paper", "open_clip"
    ]  # fmt: skip
    assert [list(row) for row in table.rows] == [
        ["retrieval, COCO", "text to image recall@1", 0.25, 0.01, 0.512, 0.4565],
        ["retrieval, COCO", "image to text recall@1", 0.5, None, 0.663, 0.6292],
        ["counting, mine", "mean", 0.5, None, None, None],
    ]
    assert "CoCa 2.1B: Yu et al. 2022" in table.note
    assert "No published figures of CoCa are known for mine." in table.note


def test_intervals_and_the_strongest_baseline_are_next_to_a_score() -> None:
    metrics = {
        "success@5": 0.76,
        "median_rank": 2,
        "chance_success@5": 0.01,
        "encoder_success@5": 0.91,
        "nearest_success@5": 0.96,
    }
    result = TaskResult("search", metrics, 100, intervals={"success@5": (0.668, 0.8331)})
    pair = config("search", "mine"), result
    shown = ["0.668 to 0.833", 0.01, "0.96 (caption of the nearest image)"]
    for table in (overview([pair]), _sections([pair])[1].blocks[0]):
        assert isinstance(table, ReportTable)
        assert list(table.columns)[-3:] == ["95 %", "chance", "strongest baseline"]
        assert list(table.rows[0])[-3:] == shown
        # Baselines have no rows of their own.
        assert not [row for row in table.rows if "encoder" in str(row[0])]


def test_a_column_that_would_be_empty_is_left_out() -> None:
    table = overview([(config("counting", "mine"), TaskResult("counting", {"mean": 0.5}, 3))])
    assert list(table.columns) == ["task", "score", "this model"]
    assert [list(row) for row in table.rows] == [["counting, mine", "mean", 0.5]]


def test_what_could_not_be_read_is_counted_and_named() -> None:
    sections = _sections([(config("retrieval", "COCO"), retrieval())])
    assert "cannot be read: a: broken and 1 more" in sections[1].text


def zero_shot() -> TaskResult:
    rng = np.random.default_rng(0)
    targets = np.arange(45).repeat(4)
    predicted = np.where(rng.random(180) < 0.5, targets, rng.integers(0, 45, 180))
    per_class, confusion = per_class_results(predicted, targets, NAMES)
    metrics = {"top1": float((predicted == targets).mean())}
    return TaskResult(
        "zero_shot", metrics, 180, report_samples=ReportSamples((), per_class, confusion)
    )


def test_many_classes_are_cut_to_those_that_matter() -> None:
    result = zero_shot()
    pairs = [(config("zero_shot", "many"), result)]
    text = render_markdown("t", "l", _sections(pairs))
    accuracy = result.report_samples.per_class
    best = max(accuracy, key=lambda name: accuracy[name])
    assert f"| {best} | {accuracy[best]:.3f} |" in text
    assert "The best and the worst 20 of 45 classes." in text
    page = render("t", "l", _sections(pairs))
    assert "The 30 most confused of 45 classes." in page


def test_the_confusion_matrix_is_a_table() -> None:
    predicted, targets = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    samples = ReportSamples((), *per_class_results(predicted, targets, ["cat", "dog", "fox"]))
    result = TaskResult("recognition", {"top1": 0.75}, 4, report_samples=samples)
    pairs = [(config("recognition", "animals"), result)]
    text = render_markdown("t", "l", _sections(pairs))
    assert "| true class | cat | dog | fox |" in text
    assert "| is dog | 1 | 1 | 0 |" in text
    assert "| dog | cat | 1 |" in text


def test_a_result_without_anything_to_show_is_its_scores() -> None:
    pairs = [(config("counting", "mine"), TaskResult("counting", {"mean": 0.5}, 3))]
    assert len(_sections(pairs)[1].blocks) == 1
