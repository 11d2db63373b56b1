import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.data.loading.loader import LoaderConfig
from coca.data.sources.annotated import AnnotationsConfig
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import SourceConfig
from coca.experimental.detection.detecting import load_detector
from coca.experimental.detection.detector import DetectorConfig
from coca.experimental.detection.finetuning import DetectionConfig, finetune_detection
from coca.predict.torch_loading import load_coca
from coca.processing.augment import AugmentConfig
from coca.tasks import TASKS, TaskConfig
from coca.train.optim.optimizer import OptimizerConfig
from coca.train.optim.schedule import ScheduleConfig
from coca.train.trainer import TrainConfig
from coca.workflows.training.pretrain_data import DataConfig
from tiny_detector import write_scenes
from tiny_model import write_model


@pytest.fixture
def scenes(tmp_path: Path) -> SourceConfig:
    path = write_scenes(tmp_path / "scenes")
    return AnnotationsConfig(
        kind="coco_instances", path=str(path), images=str(path.parent / "pictures")
    )


def recipe(tmp_path: Path, scenes: SourceConfig, **changes: Any) -> DetectionConfig:
    model = tmp_path / "pretrained"
    if not model.exists():
        write_model(model)
    config = DetectionConfig(
        run=tmp_path / "run",
        model=str(model),
        device="cpu",
        image_size=32,
        detector=DetectorConfig(channels=32, scales=(2.0, 1.0)),
        data=DataConfig(sources=(scenes,), loader=LoaderConfig(batch_size=6)),
        train=TrainConfig(
            steps=4,
            optimizer=OptimizerConfig(lr=2e-3),
            log_every=1,
            save_every=2,
            trackers=("jsonl",),
        ),
    )
    return config.replace(**changes)


def test_a_run_learns_to_find_objects_and_is_scored(tmp_path: Path, scenes: SourceConfig) -> None:
    pytest.importorskip("pycocotools", reason="the extra detection is not installed")
    config = recipe(tmp_path, scenes, evaluate=(TaskConfig(task="detection", data=scenes),))
    config = config.replace(train=config.train.replace(steps=40))
    result = finetune_detection(config)
    (score,) = result.scores
    assert score.metrics["AP50"] > 0.3
    assert json.loads((config.run / "scores" / "report.json").read_text())["tasks"]
    detector = load_detector(result.model, device="cpu")
    assert detector.classes == ("blue square", "red square")
    found = detector.detect(tmp_path / "scenes" / "pictures" / "0.png", threshold=0.2)[0]
    assert {one.label for one in found} == set(detector.classes)
    # Boxes come in pixels of the image, and the surest first.
    assert all(0 <= one.box[0] < one.box[2] <= 32 for one in found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    # Files of twice the listed size show the same objects.
    for path in (tmp_path / "scenes" / "pictures").iterdir():
        with Image.open(path) as image:
            image.resize((64, 64), Image.Resampling.NEAREST).save(path)
    loaded = load_coca(result.model, device="cpu")
    again = TASKS.get("detection")(loaded, config.evaluate[0])
    assert again.metrics["AP50"] > 0.3


def test_what_moves_or_hides_parts_of_an_image_is_refused(
    tmp_path: Path, scenes: SourceConfig
) -> None:
    config = recipe(tmp_path, scenes)
    for change in ({"augment": AugmentConfig(flip=0.5)}, {"trim": True}, {"resize": "crop"}):
        with pytest.raises(ConfigError, match="changes the geometry"):
            config.replace(data=config.data.replace(**change))
    config.replace(data=config.data.replace(augment=AugmentConfig(color=0.5, grayscale=0.5)))
    schedule = ScheduleConfig(patch_dropout=0.5)
    with pytest.raises(ConfigError, match=r"patch_dropout is 0\.5, but a detector reads the whole"):
        config.replace(train=config.train.replace(schedule=schedule))


def test_data_without_boxes_and_unknown_objects_are_reported_before_training(
    tmp_path: Path, scenes: SourceConfig
) -> None:
    folder = FolderConfig(path=str(tmp_path / "scenes" / "pictures"))
    config = recipe(tmp_path, scenes)
    with pytest.raises(ConfigError, match="has no boxes"):
        finetune_detection(config.replace(data=config.data.replace(sources=(folder,))))
    detector = config.detector.replace(classes=("red square",))
    with pytest.raises(DataError, match="'blue square', which is not in"):
        finetune_detection(config.replace(detector=detector))
    with pytest.raises(DataError, match="two images have the id 0"):
        finetune_detection(config.replace(data=config.data.replace(sources=(scenes, scenes))))
    assert not config.run.exists()
