import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.data.sources.folder import ClassFoldersConfig
from coca.data.sources.source import SourceConfig
from coca.data.sources.tar.shards import ShardsConfig, ShardWriter
from coca.predict.prompts import PROMPTS
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.task import check_task
from tiny_data import image_bytes
from tiny_datasets import write_folder

ZERO_SHOT = TASKS.get("zero_shot")
LABELS = ("car", "red_panda", "dogs", "cat", "bench", "long wooden bench", "two")
SAMPLES = [
    Sample(f"s{number:02d}", image_bytes(number), labels=(LABELS[number * number % 7], "other"))
    for number in range(20)
]


def solve(predictor: TorchPredictor, root: Path, samples: list[Sample], prompts: str) -> TaskResult:
    data = write_folder(root, samples)
    return ZERO_SHOT(predictor, TaskConfig(task="zero_shot", data=data, prompts=prompts))


@pytest.mark.parametrize("prompts", ["plain", "photo", "a drawing of {}"])
def test_scores_equal_a_classification_by_hand(
    predictor: TorchPredictor, tmp_path: Path, prompts: str
) -> None:
    templates = PROMPTS.get(prompts, (prompts,))
    answers = [sample.labels[0].replace("_", " ") for sample in SAMPLES]
    classes = {}
    for name in set(answers):
        mean = np.mean([predictor.embed_texts(it.replace("{}", name))[0] for it in templates], 0)
        classes[name] = mean / np.linalg.norm(mean)
    ranks = []
    for sample, answer in zip(SAMPLES, answers, strict=True):
        vector = predictor.embed_images(sample.image)[0]
        order = sorted(classes, key=lambda name: -float(vector @ classes[name]))
        ranks.append(order.index(answer))
    result = solve(predictor, tmp_path, SAMPLES, prompts)
    counts = Counter(answers)
    shares = [
        sum(rank == 0 for rank, it in zip(ranks, answers, strict=True) if it == name) / count
        for name, count in counts.items()
    ]
    assert dict(result.metrics) == pytest.approx(
        {
            "top1": sum(rank < 1 for rank in ranks) / 20,
            "top5": sum(rank < 5 for rank in ranks) / 20,
            "mean_per_class": sum(shares) / len(shares),
            "chance_top1": 1 / len(counts),
            "chance_top5": min(1, 5 / len(counts)),
            "majority_top1": max(counts.values()) / 20,
        }
    )
    assert result.details["classes"] == len(counts)
    assert set(result.details["worst_classes"]) <= set(counts)


def test_a_label_is_humanized(predictor: TorchPredictor, tmp_path: Path) -> None:
    samples = [
        Sample("a", image_bytes(0), labels=("red_panda",)),
        Sample("b", image_bytes(1), labels=("red panda",)),
    ]
    result = solve(predictor, tmp_path, samples, "plain")
    assert result.details["worst_classes"] == ["red panda"]
    assert result.metrics["top1"] == result.metrics["chance_top1"] == 1


def test_one_class_alone_is_warned_of(
    predictor: TorchPredictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solve(predictor, tmp_path / "two", SAMPLES, "plain")
    assert not caplog.records
    solve(predictor, tmp_path / "one", [Sample("a", image_bytes(0), labels=("cat",))], "plain")
    assert "have the one class 'cat', so every score is 1 and meaningless" in caplog.text


def test_an_image_without_a_label_is_an_error(predictor: TorchPredictor, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"1 samples of .* have no label \(such as bare\)"
    ) as caught:
        solve(predictor, tmp_path, [*SAMPLES, Sample("bare", image_bytes(99))], "plain")
    assert caught.value.reason == "no_label"


def test_an_unknown_prompt_set_is_an_error(predictor: TorchPredictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'imagenet' is not a prompt set"):
        solve(predictor, tmp_path, SAMPLES, "imagenet")


def test_reranking_asks_how_likely_the_sentences_of_the_best_classes_are(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = write_folder(tmp_path, SAMPLES)
    config = TaskConfig(task="zero_shot", data=data, prompts="drawing", rerank=3)
    found = ZERO_SHOT(predictor, config).metrics
    answers = [sample.labels[0].replace("_", " ") for sample in SAMPLES]
    names = sorted(set(answers))
    images = [sample.image for sample in SAMPLES]
    templates = PROMPTS["drawing"]
    cosines = (
        predictor.embed_images(images) @ predictor.class_embeddings(names, templates=templates).T
    )
    log_p = predictor.class_log_likelihoods(images, names, templates=templates)
    third = np.sort(cosines, axis=1)[:, -3:-2]
    log_p[cosines < third] = -np.inf
    counts = np.maximum(np.isfinite(log_p).sum(axis=0), 1)
    prior = np.logaddexp.reduce(log_p, axis=0) - np.log(counts)
    with np.errstate(invalid="ignore"):
        scores = predictor.logit_scale * cosines + log_p - prior
    best = np.where(np.isfinite(log_p), scores, -np.inf).argmax(axis=1)
    right = [names[rank] == answer for rank, answer in zip(best, answers, strict=True)]
    assert found["top1"] == pytest.approx(np.mean(right))


def test_classes_may_be_ranked_by_the_likelihood_of_their_prompts(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    config = TaskConfig(task="zero_shot", data=write_folder(tmp_path, SAMPLES), by="likelihood")
    answers = [sample.labels[0].replace("_", " ") for sample in SAMPLES]
    names = sorted(set(answers))
    log_p = predictor.score([sample.image for sample in SAMPLES], names)
    right = [names[it] == answer for it, answer in zip(log_p.argmax(1), answers, strict=True)]
    assert ZERO_SHOT(predictor, config).metrics["top1"] == pytest.approx(np.mean(right))


def folders(root: Path) -> SourceConfig:
    for number, label in enumerate(("cat", "dog", "red_panda")):
        (root / label).mkdir(parents=True)
        (root / label / "1.png").write_bytes(image_bytes(number))
    return ClassFoldersConfig(path=str(root))


def test_a_limit_takes_images_away_and_no_classes(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    config = TaskConfig(task="zero_shot", data=folders(tmp_path), limit=1)
    result = ZERO_SHOT(predictor, config)
    assert result.samples == 1
    assert result.metrics["chance_top1"] == pytest.approx(1 / 3)
    assert set(result.report_samples.per_class) == {"cat"}


def test_a_limit_takes_no_classes_of_labelled_files_away(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    config = TaskConfig(task="zero_shot", data=write_folder(tmp_path, SAMPLES), limit=3)
    result = ZERO_SHOT(predictor, config)
    assert result.samples == 3
    classes = {sample.labels[0] for sample in SAMPLES}
    assert result.metrics["chance_top1"] == pytest.approx(1 / len(classes))
    assert not result.notes


def test_a_limit_of_a_source_that_cannot_list_its_classes_is_noted(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    with ShardWriter(tmp_path) as writer:
        for sample in SAMPLES:
            writer.write(sample)
    config = TaskConfig(task="zero_shot", data=ShardsConfig(path=str(tmp_path)), limit=3)
    assert "classes of the first 3 samples only" in ZERO_SHOT(predictor, config).notes[0]
    listed = config.replace(classes=tuple(it.replace("_", " ") for it in LABELS))
    assert not ZERO_SHOT(predictor, listed).notes


def test_classes_may_be_given_and_must_hold_every_label(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    config = TaskConfig(task="zero_shot", data=folders(tmp_path), classes=("cat", "dog"))
    with pytest.raises(DataError, match=r"1 labels of .* not among the 2 classes.*'red panda'"):
        check_task(predictor, config)
    more = config.replace(classes=("cat", "dog", "red panda", "yak"))
    assert ZERO_SHOT(predictor, more).metrics["chance_top1"] == 0.25


def test_each_class_may_have_sentences_of_its_own(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    own = {"cat": ["a soft {}"], "dog": ["it barks", "a {}"], "red panda": ["red fur", "a tail"]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    config = TaskConfig(
        task="zero_shot", data=folders(tmp_path / "p"), prompts=str(tmp_path / "own.json")
    )
    classes = predictor.class_embeddings(list(own), templates=own)
    mean = predictor.embed_texts(["it barks", "a dog"]).mean(axis=0)
    assert classes[1] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    images = [image_bytes(number) for number in range(3)]
    best = (predictor.embed_images(images) @ classes.T).argmax(axis=1)
    assert ZERO_SHOT(predictor, config).metrics["top1"] == pytest.approx(np.mean(best == range(3)))
    log_p = predictor.class_log_likelihoods(images, list(own), templates=own)
    dog = np.logaddexp(*predictor.score(images, ["it barks", "a dog"]).T) - np.log(2)
    assert log_p[:, 1] == pytest.approx(dog, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cat": ["a {}"], "dog": []}', "2 of 3 classes have no prompt, such as 'dog'"),
        ('["no place"]', "has no {}"),
        ("7", "must be a list of sentences"),
    ],
)
def test_prompts_that_leave_a_class_out_are_reported_before_the_work(
    predictor: TorchPredictor, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "own.json").write_text(content)
    config = TaskConfig(
        task="zero_shot", data=folders(tmp_path / "p"), prompts=str(tmp_path / "own.json")
    )
    with pytest.raises(ConfigError, match=message):
        check_task(predictor, config)


def test_a_report_gets_classes_what_is_confused_and_the_surest_cases(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    result = solve(predictor, tmp_path, SAMPLES, "plain")
    shown = result.report_samples
    assert np.mean(list(shown.per_class.values())) == pytest.approx(
        result.metrics["mean_per_class"]
    )
    assert shown.confusion is not None
    counts = np.array(shown.confusion.counts)
    assert counts.sum() == 20
    assert counts.trace() / 20 == pytest.approx(result.metrics["top1"])
    cases = {strip.heading: strip.examples for strip in shown.rows}
    assert all(case.correct for case in cases.get("Most confident, correct", ()))
    assert not any(case.correct for case in cases["Most confident, wrong"])
