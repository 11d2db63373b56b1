"""Detection run: train an object detector on a captioner's image encoder.

run/  recipe.json  record.json  metrics.jsonl  bad_samples.jsonl  checkpoints/  scores/
model/       what `coca detect` reads; all files but `detector.*` are the captioner's
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from coca.core.errors import ConfigError, DataError
from coca.core.progress import progress_bar
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.experimental.detection.detector import Detector, DetectorConfig, save_detector
from coca.experimental.detection.objective import DetectionObjective, Target
from coca.experimental.detection.source import BOXES
from coca.model.coca import CoCa
from coca.model.pretrained import ModelConfig, assemble, build, with_image_size
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.augment import AugmentConfig
from coca.processing.processor import Processor
from coca.tasks import TaskConfig
from coca.train.distributed.context import DistributedContext
from coca.train.trainer import TrainConfig
from coca.workflows.training.finetune import paced, scored
from coca.workflows.training.init_weights import adopt_weights
from coca.workflows.training.pretrain_data import DataConfig, Sources, open_sources
from coca.workflows.training.training_run import (
    RunConfig,
    RunResult,
    compare_with_earlier,
    save_finished,
    start_trainer,
    threads,
)

ENCODER = "backbone.image_encoder"


class DetectionConfig(RunConfig):
    """Configuration of a detection run, as in a recipe."""

    model: str = "everyday"
    """Model whose image encoder is used, by any name that `coca.load` accepts."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` initializes the same architecture from scratch, as a baseline without pretraining.
    """
    image_size: PositiveInt | None = None
    """Side of the images, pixels, a multiple of the model's patch size; null: the model's."""
    encoder_lr: NonNegativeFloat | None = None
    """Peak learning rate of the encoder; 0 freezes it; null: `train.optimizer.lr`."""
    detector: DetectorConfig = Field(default_factory=DetectorConfig)
    """Detection head on the encoder; without `classes`, the sorted classes of the data."""
    data: DataConfig
    """Sources of kind `coco_instances`. Boxes are not transformed, so `augment` allows only
    `color` and `grayscale`."""
    train: TrainConfig
    """The training loop."""
    evaluate: tuple[TaskConfig, ...] = ()
    """Tasks to evaluate the finished detector on."""

    @model_validator(mode="after")
    def _check_rules(self) -> "DetectionConfig":
        still = AugmentConfig(color=self.data.augment.color, grayscale=self.data.augment.grayscale)
        if self.data.augment != still or self.data.trim or self.data.resize != "squash":
            raise ConfigError(
                "data.augment, data.trim or data.resize changes the geometry of images but not "
                "their boxes; allowed are color and grayscale, and resize: squash"
            )
        if self.data.resolution:
            raise ConfigError("data.resolution is not for detection; set image_size")
        if self.data.features is not None:
            raise ConfigError("data.features is not for detection, whose boxes need images")
        if dropout := self.train.schedule.patch_dropout:
            raise ConfigError(
                f"train.schedule.patch_dropout is {dropout}, but a detector reads the whole grid "
                "of patches; set it to 0"
            )
        return self


def finetune_detection(config: DetectionConfig) -> RunResult:
    """Train an object detector; the same call resumes a run.

    Raises:
        CocaError: The recipe, the data or the run folder is invalid; the message gives the reason.
    """
    world = DistributedContext.current()
    fixed = ("seed", "model", "weights", "image_size", "detector")
    world.broadcast_from_main(lambda: compare_with_earlier(config, fixed=fixed, logged=("data",)))
    asked = tuple(source.replace(text="question") for source in config.data.sources)
    data = config.data.replace(sources=asked)
    sources = open_sources(data.sources)
    for task in config.evaluate:
        open_source(task.data)  # missing data raise here, before training
    found = _objects(sources)
    held = {name for sample in found for name in sample.labels}
    classes = config.detector.classes or tuple(sorted(held))
    targets = {sample.key: _target(sample, classes) for sample in found}
    torch.manual_seed(config.seed)
    captioner, processor = _start(config)
    detector = Detector(captioner, config.detector.replace(classes=classes))
    trainer = start_trainer(
        config,
        detector,
        DetectionObjective(targets),
        data,
        sources,
        processor,
        train=paced(config.train, config.encoder_lr, encoder=ENCODER),
        facts={"ranks": world.size},
    )
    with threads(config.threads):
        result = trainer.fit()
    weights = trainer.weights(keep=world.is_main)

    def write() -> Path:
        finished, trained = _finished(captioner, detector, weights, config.run)
        folder = save_finished(config.run, finished, processor, step=result.step)
        save_detector(folder, trained)
        return folder

    folder = world.broadcast_from_main(write)
    return scored(config, config.evaluate, result, folder=folder, device=trainer.device)


def _start(config: DetectionConfig) -> tuple[CoCa, Processor]:
    """Build the captioner that provides the encoder, and the processor for its images."""
    source = load_coca(config.model, device="cpu", prepack=False)
    shape = source.model.config
    assert isinstance(shape, ModelConfig)
    size = config.image_size or shape.image.image_size
    fresh = build(with_image_size(shape, size).replace(head=None))
    if config.weights == "pretrained":
        adopt_weights(fresh, source)
    return fresh, _squashed(source, size)


def _finished(
    captioner: CoCa, detector: Detector, weights: Mapping[str, Tensor], source: Path
) -> tuple[CoCa, Detector]:
    """Build captioner and detector from the trained weights, on the CPU.

    The trained modules may be on an accelerator or sharded over ranks.
    """
    prefix = f"{ENCODER}."
    state = captioner.state_dict() | {
        f"image_encoder.{name.removeprefix(prefix)}": tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    shape = captioner.config
    assert isinstance(shape, ModelConfig)
    finished = assemble(shape, state, source=source)
    trained = Detector(finished, detector.config)
    trained.load_state_dict(dict(weights))
    return finished, trained


def _squashed(source: TorchPredictor, size: int) -> Processor:
    """Return the model's processor, with images of this size stretched to a square."""
    own = source.processor
    image = own.image_config.replace(image_size=size, resize="squash", trim=False)
    return own.with_image(image)


def _objects(sources: Sources) -> list[Sample]:
    """Read every sample without its image; its metadata contain the boxes."""
    found = []
    keys: set[str] = set()
    with progress_bar("reading boxes", sum(len(source) for _, source in sources)) as bar:
        for config, source in sources:
            for row in range(len(source)):
                bar.advance()
                try:
                    sample = source.read_metadata(row)
                except DataError:
                    continue  # the loader reports it during the run
                if BOXES not in sample.metadata:
                    raise ConfigError(
                        f"source {config.title} has no boxes; use kind: coco_instances"
                    )
                if sample.key in keys:
                    raise DataError(
                        f"two images have the id {sample.key}, in {config.title} or in another "
                        "source; ids must be unique",
                        reason="duplicate_key",
                    )
                keys.add(sample.key)
                found.append(sample)
    return found


def _target(sample: Sample, classes: tuple[str, ...]) -> Target:
    """Convert boxes to fractions of the image's sides; crowd boxes are not trained on."""
    sides = (sample.metadata["width"], sample.metadata["height"])
    numbers = {name: number for number, name in enumerate(classes)}
    boxes, labels = [], []
    for one in sample.metadata[BOXES]:
        if one["name"] not in numbers:
            raise DataError(
                f"image {sample.key} contains {one['name']!r}, which is not in detector.classes",
                reason="unknown_label",
            )
        if not one["crowd"]:
            left, top, width, height = one["box"]
            edges = (left, top, left + width, top + height)
            boxes.append([edge / sides[axis % 2] for axis, edge in enumerate(edges)])
            labels.append(numbers[one["name"]])
    return Target(torch.tensor(boxes).view(-1, 4), torch.tensor(labels, dtype=torch.int64))
