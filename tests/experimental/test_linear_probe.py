import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.data.sources.folder import FolderConfig
from coca.experimental.linear_probe import choose_c, drawn_rows, fit_logistic
from coca.inference import loading
from coca.inference.predictor import Predictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.baselines import without_baselines
from coca.tasks.task import check_task
from tiny_model import write_model
from tiny_workflows import write_classes


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return loading.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


def drawn(seed: int = 0, *, samples: int = 60, features: int = 7, classes: int = 4) -> Any:
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(samples, features)).astype(np.float32)
    centers = random.normal(size=(classes, features))
    targets = (inputs @ centers.T + random.gumbel(size=(samples, classes))).argmax(axis=1)
    return inputs, targets


@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_it_is_the_regression_of_scikit_learn(c: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    inputs, targets = drawn()
    ours = fit_logistic(inputs, targets, 4, c=c)
    peer = linear.LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
    peer.fit(inputs.astype(np.float64), targets)
    # Both stop when the gradient is small, which leaves the fifth digit open.
    np.testing.assert_allclose(ours.weight, peer.coef_, atol=1e-4)
    # Only differences of biases have a meaning.
    shift = ours.bias - peer.intercept_
    np.testing.assert_allclose(shift - shift.mean(), 0, atol=1e-4)


def test_the_penalty_is_chosen_by_samples_that_the_fit_does_not_see() -> None:
    random = np.random.default_rng(0)
    # One feature determines the class; 200 others are noise that a weak penalty fits.
    targets = np.arange(40) % 2
    inputs = random.normal(size=(40, 201)).astype(np.float32)
    inputs[:, 0] = 20 * (targets - 0.5)
    assert choose_c(inputs, targets, 2, candidates=(1e-9, 1e-3)) == 1e-9
    assert choose_c(inputs[:1], targets[:1], 2, candidates=(0.1, 1.0)) == 0.1


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("data") / "colors")


@pytest.fixture(scope="module")
def others(image_folder: Path) -> Path:
    """The same images in other files: a probe does not learn from equal bytes."""
    folder = image_folder.with_name("others")
    for path in image_folder.rglob("*.png"):
        copy = folder / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy, compress_level=0)
    return folder


def config(task: str, image_folder: Path, others: Path, **settings: Any) -> TaskConfig:
    data, reference = (FolderConfig(path=str(folder)) for folder in (image_folder, others))
    return TaskConfig(task=task, **{"data": data, "reference": reference, **settings})


def run(predictor: Predictor, settings: TaskConfig) -> TaskResult:
    check_task(predictor, settings)
    return TASKS.get(settings.task)(predictor, settings)


def test_a_linear_layer_distinguishes_colours(
    predictor: Predictor, image_folder: Path, others: Path
) -> None:
    result = run(predictor, config("linear_probe", image_folder, others, inverse_penalty=100.0))
    assert result.metrics["top1"] == 1
    assert (result.metrics["chance_top1"], result.metrics["majority_top1"]) == (0.25, 0.25)
    assert result.details["learned_from"] == result.samples == 12


def test_more_shots_are_reported_with_their_spread(
    predictor: Predictor, image_folder: Path, others: Path
) -> None:
    settings = config(
        "few_shot", image_folder, others, shots=(1, 3), draws=4, inverse_penalty=100.0
    )
    first, again = run(predictor, settings), run(predictor, settings)
    assert first.metrics == again.metrics
    assert first.metrics["top1_3_shot"] == 1  # every image is learned
    assert first.metrics["spread_3_shot"] == 0
    each = first.details["top1"]["1"]
    assert len(each) == 4
    assert first.metrics["top1_1_shot"] == pytest.approx(np.mean(each))
    assert first.metrics["spread_1_shot"] == pytest.approx(np.std(each, ddof=1))
    assert first.headline == ("top1_1_shot", "top1_3_shot")
    # Chance and the most frequent class are baselines of each score, and not scores.
    assert without_baselines(first.metrics).keys() == {
        f"{name}_{shots}_shot" for name in ("top1", "spread") for shots in (1, 3)
    }


@pytest.mark.parametrize("task", ["linear_probe", "few_shot"])
def test_nothing_is_learned_from_the_images_to_classify(
    predictor: Predictor, image_folder: Path, others: Path, tmp_path: Path, task: str
) -> None:
    settings = config(task, image_folder, others, shots=(1,), inverse_penalty=1.0)
    alone = run(predictor, settings)
    both = tmp_path / "both"
    shutil.copytree(others, both)
    for path in image_folder.rglob("*.png"):
        shutil.copy(path, both / path.parent.name / f"copy-{path.name}")
    mixed = run(predictor, settings.replace(reference=FolderConfig(path=str(both))))
    assert mixed.metrics == alone.metrics
    assert "12 of 24 images" in mixed.notes[0]
    with pytest.raises(DataError, match="nothing is left to learn from") as caught:
        run(predictor, settings.replace(reference=settings.data))
    assert caught.value.reason == "no_other_image"


def test_few_shots_are_among_more_and_equal_for_each_class() -> None:
    targets = np.random.default_rng(0).integers(0, 3, 60)
    few, more = (drawn_rows(targets, 3, shots, seed=1) for shots in (2, 5))
    assert set(few) < set(more)
    assert np.bincount(targets[more]).tolist() == [5, 5, 5]
    assert set(drawn_rows(targets, 3, 5, seed=2)) != set(more)


@pytest.mark.parametrize("task", ["linear_probe", "few_shot"])
def test_missing_data_are_reported_before_any_work(
    predictor: Predictor, image_folder: Path, others: Path, tmp_path: Path, task: str
) -> None:
    with pytest.raises(ConfigError, match="name them as reference"):
        check_task(predictor, config(task, image_folder, others, reference=None))
    strange = tmp_path / "purple"
    strange.mkdir()
    (strange / "1.png").write_bytes(next((image_folder / "red").iterdir()).read_bytes())
    other = FolderConfig(path=str(tmp_path))
    with pytest.raises(DataError, match="1 classes that training has not, such as 'purple'"):
        check_task(predictor, config(task, image_folder, others, data=other, shots=(1,)))


def test_more_shots_than_there_are_images_are_reported(
    predictor: Predictor, image_folder: Path, others: Path
) -> None:
    with pytest.raises(DataError, match=r"fewer than 4 images of 4 classes, such as 'blue'"):
        check_task(predictor, config("few_shot", image_folder, others, shots=(1, 4)))
