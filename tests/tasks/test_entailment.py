"""Statements about one image or two are judged by a head."""

import json
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sources.factory import open_source
from coca.data.sources.source import SourceConfig
from coca.data.sources.table_source import ManifestConfig
from coca.metrics.intervals import cluster_interval
from coca.model.coca_config import HeadConfig
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.task import check_task
from tiny_datasets import write_nlvr2, write_questions, write_snli_ve
from tiny_model import answering, text_head

VERDICTS = ("entailment", "neutral", "contradiction")
TRUTH = ("false", "true")


def run(task: str, predictor: TorchPredictor, data: SourceConfig) -> TaskResult:
    config = TaskConfig(task=task, data=data)
    check_task(predictor, config)
    return TASKS.get(task)(predictor, config)


def judged(predictor: TorchPredictor, data: SourceConfig) -> list[bool]:
    """Which samples are judged rightly, by way of the public answer."""
    source = open_source(data)
    samples = [source.read(row) for row in range(len(source))]
    answers = predictor.answer([it.images for it in samples], [it.text for it in samples])
    return [one[0].label == it.labels[0] for one, it in zip(answers, samples, strict=True)]


def test_entailment_counts_each_verdict(tmp_path: Path) -> None:
    predictor, data = answering(text_head(VERDICTS)), write_snli_ve(tmp_path)
    right = judged(predictor, data)
    result = run("entailment", predictor, data)
    assert result.metrics["accuracy"] == pytest.approx(np.mean(right))
    for number, name in enumerate(VERDICTS):
        assert result.metrics[f"accuracy_{name}"] == pytest.approx(np.mean(right[number::3]))
    assert result.metrics["chance_accuracy"] == pytest.approx(1 / 3)
    assert result.metrics["majority_accuracy"] == pytest.approx(1 / 3)
    assert sum(result.details["predicted_share"].values()) == pytest.approx(1)
    assert result.report_samples.confusion is not None
    assert sum(map(sum, result.report_samples.confusion.counts)) == 6
    low, high = result.intervals["accuracy"]
    assert low < np.mean(right) < high


def test_pairs_are_judged_together_and_a_sentence_counts_if_all_of_its_pairs_do(
    tmp_path: Path,
) -> None:
    predictor, data = answering(text_head(TRUTH, images_per_sample=2)), write_nlvr2(tmp_path)
    right = judged(predictor, data)
    result = run("nlvr2", predictor, data)
    assert result.metrics["accuracy"] == pytest.approx(np.mean(right))
    pairs = np.array(right).reshape(4, 2)
    assert result.metrics["consistency"] == pytest.approx(pairs.all(axis=1).mean())
    # Of each sentence one pair is true and one is not, so one answer for all is never consistent.
    assert result.metrics["majority_consistency"] == 0
    assert result.metrics["majority_accuracy"] == 0.5
    assert result.metrics["sentences"] == 4
    # The pairs of a sentence are one cluster.
    clusters = cluster_interval(pairs.sum(axis=1), np.full(4, 2))
    assert result.intervals == {"accuracy": clusters}
    assert result.headline == ("accuracy", "consistency")


def test_the_order_of_two_photos_matters_to_the_head(tmp_path: Path) -> None:
    predictor, data = answering(text_head(TRUTH, images_per_sample=2)), write_nlvr2(tmp_path)
    sample = open_source(data).read(0)
    one, other = (
        predictor.head_logits([images], [sample.text])
        for images in (sample.images, sample.images[::-1])
    )
    assert not np.allclose(one, other)


def test_statements_about_one_image_are_judged_by_the_same_task(tmp_path: Path) -> None:
    write_nlvr2(tmp_path, numbered=False)
    rows = [
        {
            "image": f"train-{number}-0-img0.png",
            "sentence": f"Sentence {number // 2} is so.",
            "label": TRUTH[number % 2],
        }
        for number in range(4)
    ]
    table = tmp_path / "images" / "m.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictor, data = answering(text_head(TRUTH)), ManifestConfig(path=str(table))
    result = run("nlvr2", predictor, data)
    assert result.metrics["accuracy"] == pytest.approx(np.mean(judged(predictor, data)))
    assert (result.samples, result.metrics["sentences"]) == (4, 2)


def test_a_sample_with_another_number_of_images_is_left_out_and_named(tmp_path: Path) -> None:
    write_nlvr2(tmp_path)
    folder = tmp_path / "images" / "0"
    rows = [
        {
            "image": [f"train-0-0-img{side}.png" for side in range(count)],
            "sentence": "It is so.",
            "label": "true",
            "key": str(count),
        }
        for count in (2, 1)
    ]
    table = folder / "m.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ManifestConfig(path=str(table))
    result = run("nlvr2", answering(text_head(TRUTH, images_per_sample=2)), data)
    assert result.samples == 1
    assert "it has 1 images, but the head reads 2" in result.bad[0]
    with pytest.raises(ConfigError, match=r"no statement .* reads"):
        run("nlvr2", answering(text_head(TRUTH, images_per_sample=3)), data)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (None, ConfigError, "no head that answers"),
        (HeadConfig(classes=VERDICTS, heads=2), ConfigError, "reads images only"),
        (text_head(("yes", "no")), DataError, "3 classes that training has not"),
    ],
)
def test_a_head_that_does_not_fit_is_reported_before_any_work(
    head: HeadConfig | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    config = TaskConfig(task="entailment", data=write_snli_ve(tmp_path))
    with pytest.raises(error, match=message):
        check_task(answering(head), config)


def test_questions_have_no_verdict(tmp_path: Path) -> None:
    config = TaskConfig(task="entailment", data=write_questions(tmp_path))
    with pytest.raises(DataError, match="have no label"):
        check_task(answering(text_head(VERDICTS)), config)
