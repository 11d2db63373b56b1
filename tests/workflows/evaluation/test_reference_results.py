import re
from pathlib import Path

import pytest

from coca.core.errors import ConfigError
from coca.workflows.evaluation.reference_results import (
    Benchmark,
    PublishedModel,
    benchmark_named,
    published,
)

REFERENCE = Path(__file__).parents[3] / "shared/reference"


def test_an_unknown_benchmark_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'nocaps'"):
        benchmark_named("no_caps")


def test_a_score_is_found_by_its_metric_or_omitted() -> None:
    benchmark = benchmark_named("coco_captions")
    first = benchmark.models[0]
    assert (benchmark.score(first, "cider"), benchmark.score(first, "bleu@1")) == (1.436, None)


def test_each_model_has_a_figure_for_each_metric() -> None:
    model = PublishedModel(model="x", source="paper", table="Table 1", scores=(0.5,))
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
