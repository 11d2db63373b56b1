from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.inference.prompts import PROMPTS
from coca.tasks import TASKS, TaskConfig, TaskResult
from tiny_data import picture
from tiny_folder import write_folder

ZERO_SHOT = TASKS.get("zero_shot")
LABELS = ("car", "red_panda", "dogs", "cat", "bench", "long wooden bench", "two")
SAMPLES = [
    Sample(f"s{number:02d}", picture(number), labels=(LABELS[number * number % 7], "other"))
    for number in range(20)
]


def solve(predictor: Predictor, root: Path, samples: list[Sample], prompts: str) -> TaskResult:
    data = write_folder(root, samples)
    return ZERO_SHOT(predictor, TaskConfig(task="zero_shot", data=data, prompts=prompts))


@pytest.mark.parametrize("prompts", ["plain", "photo", "a drawing of {}"])
def test_scores_equal_a_classification_by_hand(
    predictor: Predictor, tmp_path: Path, prompts: str
) -> None:
    templates = PROMPTS.get(prompts, (prompts,))
    answers = [sample.labels[0].replace("_", " ") for sample in SAMPLES]
    classes = {}
    for name in set(answers):
        mean = np.mean([predictor.embed_texts(it.replace("{}", name))[0] for it in templates], 0)
        classes[name] = mean / np.linalg.norm(mean)
    places = []
    for sample, answer in zip(SAMPLES, answers, strict=True):
        vector = predictor.embed_images(sample.image)[0]
        order = sorted(classes, key=lambda name: -float(vector @ classes[name]))
        places.append(order.index(answer))
    result = solve(predictor, tmp_path, SAMPLES, prompts)
    counts = Counter(answers)
    shares = [
        sum(place == 0 for place, it in zip(places, answers, strict=True) if it == name) / count
        for name, count in counts.items()
    ]
    assert dict(result.metrics) == pytest.approx(
        {
            "top1": sum(place < 1 for place in places) / 20,
            "top5": sum(place < 5 for place in places) / 20,
            "mean_per_class": sum(shares) / len(shares),
            "chance_top1": 1 / len(counts),
            "chance_top5": min(1, 5 / len(counts)),
            "majority_top1": max(counts.values()) / 20,
        }
    )
    assert result.details["classes"] == len(counts)
    assert set(result.details["worst_classes"]) <= set(counts)


def test_a_label_is_read_as_one_would_say_it(predictor: Predictor, tmp_path: Path) -> None:
    samples = [
        Sample("a", picture(0), labels=("red_panda",)),
        Sample("b", picture(1), labels=("red panda",)),
    ]
    result = solve(predictor, tmp_path, samples, "plain")
    assert result.details["worst_classes"] == ["red panda"]
    assert result.metrics["top1"] == result.metrics["chance_top1"] == 1


def test_a_picture_without_a_label_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"1 samples of .* have no label \(such as bare\)"
    ) as caught:
        solve(predictor, tmp_path, [*SAMPLES, Sample("bare", picture(99))], "plain")
    assert caught.value.reason == "no_label"


def test_an_unknown_prompt_set_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'imagenet' is no prompt set"):
        solve(predictor, tmp_path, SAMPLES, "imagenet")


def test_reranking_asks_how_likely_the_sentences_of_the_best_classes_are(
    predictor: Predictor, tmp_path: Path
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
    right = [names[place] == answer for place, answer in zip(best, answers, strict=True)]
    assert found["top1"] == pytest.approx(np.mean(right))
