import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.model.encoders.efficientnet import EfficientNetLiteConfig, EfficientNetLiteEncoder
from coca.model.encoders.encoder_weights import EncoderWeightsConfig
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig
from coca.tasks.baselines import (
    ClassifierConfig,
    EncoderClassifier,
    baseline_shown,
    recalls,
    strongest_baseline,
    without_baselines,
)
from tiny_data import image_bytes
from tiny_datasets import write_folder

OSTRICH, FIRST_CRANE, SECOND_CRANE = 9, 134, 517
IMAGE = EfficientNetLiteConfig(image_size=32, width=1280, classes=1000)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> ClassifierConfig:
    """A random encoder whose classifier prefers the ostrich, then the second crane."""
    torch.manual_seed(0)
    backbone = EfficientNetLiteEncoder(IMAGE).backbone
    with torch.no_grad():
        backbone.classifier.bias[OSTRICH] = 30
        backbone.classifier.bias[SECOND_CRANE] = 20
    path = tmp_path_factory.mktemp("encoder") / "weights.safetensors"
    save_file(backbone.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ClassifierConfig(image=IMAGE, weights=EncoderWeightsConfig(file=path, sha256=digest))


def test_a_baseline_is_a_score_with_its_prefix() -> None:
    metrics = {
        "success@5": 0.76,
        "chance_success@5": 0.01,
        "encoder_success@5": 0.91,
        "nearest_success@5": 0.96,
        "majority_top1": 0.5,
        "chance_alone": 0.1,
    }
    # Without `top1` there is nothing that the majority is a baseline of.
    assert without_baselines(metrics) == {"success@5": 0.76, "majority_top1": 0.5}
    assert strongest_baseline(metrics, "success@5") == ("caption of the nearest image", 0.96)
    assert baseline_shown(metrics, "success@5") == "0.96 (caption of the nearest image)"
    assert strongest_baseline({"top1": 1.0, "chance_top1": 0.1}, "top1") is None
    assert baseline_shown({"top1": 1.0, "chance_top1": 0.1}, "top1") == ""


def test_an_image_that_shares_no_word_is_no_hit() -> None:
    similarity = np.array([[-np.inf, 2, 1], [-np.inf, -np.inf, -np.inf]])
    relevant = np.array([[False, False, True], [True, False, False]])
    assert recalls(similarity, relevant) == {"recall@1": 0, "recall@5": 0.5, "recall@10": 0.5}


def test_probabilities_equal_those_of_the_encoder(
    predictor: TorchPredictor, classifier: ClassifierConfig
) -> None:
    encoder = EncoderClassifier(classifier, predictor)
    images = [image_bytes(row) for row in range(3)]
    found = encoder.probabilities(images)
    assert found.shape == (3, 1000)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found.argmax(axis=1) == OSTRICH).all()
    np.testing.assert_allclose(encoder.probabilities(images[1:])[0], found[1], atol=1e-6)


def test_a_class_name_means_each_class_that_has_it(
    predictor: TorchPredictor, classifier: ClassifierConfig
) -> None:
    encoder = EncoderClassifier(classifier, predictor)
    probabilities = np.zeros((1, 1000), np.float32)
    probabilities[0, [OSTRICH, FIRST_CRANE, SECOND_CRANE]] = 0.5, 0.1, 0.3
    found = encoder.among(["crane", "Struthio camelus", "goldfish"], probabilities)
    np.testing.assert_allclose(found, [[0.3, 0.5, 0]])
    with pytest.raises(DataError, match="does not know 1 of 2 classes, such as 'unicorn'"):
        encoder.among(["crane", "unicorn"], probabilities)


def test_texts_are_matched_with_the_names_of_probable_classes(
    predictor: TorchPredictor, classifier: ClassifierConfig
) -> None:
    encoder = EncoderClassifier(classifier, predictor)
    probabilities = np.zeros((2, 1000), np.float32)
    probabilities[0, OSTRICH] = probabilities[1, FIRST_CRANE] = 1
    found = encoder.match_texts(["an ostrich runs", "xyzzy"], probabilities)
    assert found[0, 0] > found[0, 1] == 0
    assert (found[1] == -np.inf).all()


def test_an_encoder_without_classes_is_refused(predictor: TorchPredictor, tmp_path: Path) -> None:
    config = ClassifierConfig(
        image=EfficientNetLiteConfig(image_size=32, width=1280),
        weights=EncoderWeightsConfig(file=tmp_path / "none.safetensors"),
    )
    with pytest.raises(ConfigError, match="has no classifier with known classes"):
        EncoderClassifier(config, predictor)


@pytest.mark.parametrize("task", ["zero_shot", "retrieval"])
def test_the_encoder_alone_is_scored_next_to_the_model(
    predictor: TorchPredictor, classifier: ClassifierConfig, tmp_path: Path, task: str
) -> None:
    labels = ["ostrich", "goldfish", "crane", "ostrich"]
    data = [
        Sample(f"s{row}", image_bytes(row), captions=(f"a photo of the {label}",), labels=(label,))
        for row, label in enumerate(labels)
    ]
    config = TaskConfig(
        task=task,
        data=write_folder(tmp_path / "data", data),
        classifier=classifier,
        captions="first",
    )
    metrics = TASKS.get(task)(predictor, config).metrics
    alone = {name: it for name, it in metrics.items() if name.startswith("encoder_")}
    if task == "zero_shot":
        # All are taken for ostriches.
        assert alone["encoder_top1"] == 0.5
    else:
        assert set(alone) == {
            f"encoder_{way}_recall@{k}"
            for way in ("text_to_image", "image_to_text")
            for k in (1, 5, 10)
        }
