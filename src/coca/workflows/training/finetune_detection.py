"""One whole run of detection: a captioner's image encoder learns to find objects.

run/  recipe.json  record.json  metrics.jsonl  bad_samples.jsonl  checkpoints/  scores/
model/       what `coca detect` reads; all but `detector.*` is the captioner's
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.datasets.coco_instances import BOXES
from coca.data.sample import Sample
from coca.data.sources.base import words_of
from coca.data.sources.factory import open_source
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.model.captioner import Captioner
from coca.model.detection.detector import Detector, DetectorConfig, save_detector
from coca.model.pretrained import ModelConfig, assemble, build
from coca.processing.augment import AugmentConfig
from coca.processing.image import ImageTransform
from coca.processing.processor import Processor
from coca.tasks import TaskConfig
from coca.train.config import TrainConfig
from coca.train.detection import DetectionObjective, Target
from coca.train.distributed_context import DistributedContext
from coca.train.tracker import make_trackers
from coca.train.trainer import Trainer
from coca.workflows.training.finetune import FinetuneResult, paced, scored
from coca.workflows.training.init_weights import adopt_weights
from coca.workflows.training.pretrain_data import DataConfig, Sources, make_loader, open_sources
from coca.workflows.training.run_dir import begin, compare_with_earlier, save_finished, threads

ENCODER = "backbone.image_encoder"


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """A whole run, as a recipe describes it."""

    run: Path
    """Folder of the run; an interrupted run in it goes on."""
    seed: int = 0
    """Of weights, order and augmentation."""
    device: str = "auto"
    """A torch device; `auto` takes a GPU of CUDA if there is one."""
    threads: int = 0
    """CPU threads of each operation; 0 leaves it to torch."""
    model: str = "nano"
    """The model whose image encoder is taken, by any name that `coca.load` knows."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` begins with new weights in the same shape: what the same training would give without
    pretraining."""
    image_size: int | None = None
    """Side of the images, pixels, a multiple of the model's patches; null: as the model has."""
    encoder_lr: float | None = None
    """Learning rate of the encoder; 0 freezes it, null is `train.optimizer.lr`, as of the rest."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    """What stands on the encoder; without `classes`, those of the data, sorted."""
    data: DataConfig
    """Sources of kind `coco_instances`. Nothing may move in an image, so of `augment` only
    changes of colour are allowed."""
    train: TrainConfig
    """The loop."""
    evaluate: tuple[TaskConfig, ...] = ()
    """Tasks that the finished detector is scored on."""

    def __post_init__(self) -> None:
        still = AugmentConfig(color=self.data.augment.color, grayscale=self.data.augment.grayscale)
        if self.data.augment != still or self.data.trim or self.data.resize != "squash":
            raise ConfigError(
                "data.augment, data.trim or data.resize moves what is in an image, and its boxes "
                "would stay where they are; right are color and grayscale, and resize: squash"
            )
        if self.data.resolution:
            raise ConfigError("data.resolution is not for detection; set image_size")
        if dropout := self.train.schedule.patch_dropout:
            raise ConfigError(
                f"train.schedule.patch_dropout is {dropout}, but a detector reads the whole grid "
                "of patches; set it to 0"
            )
        if self.encoder_lr is not None and self.encoder_lr < 0:
            raise ConfigError(f"encoder_lr is {self.encoder_lr}; right is 0 to freeze, or more")


def finetune_detection(
    config: DetectionConfig, *, progress: ProgressMaker = silent
) -> FinetuneResult:
    """Trains a detector; called again on the same run, it goes on where that stopped.

    Raises:
        CocaError: Something in the recipe, the data or the folder is wrong; the message says what.
    """
    world = DistributedContext.current()
    fixed = ("seed", "model", "weights", "image_size", "detector")
    world.broadcast_from_main(lambda: compare_with_earlier(config, fixed=fixed, told=("data",)))
    asked = tuple(replace(source, text="question") for source in config.data.sources)
    data = replace(config.data, sources=asked)
    sources = open_sources(data.sources)
    for task in config.evaluate:
        open_source(task.data)  # what is missing is better told before the training
    found = _objects(sources, progress)
    held = {name for sample in found for name in sample.labels}
    classes = config.detector.classes or tuple(sorted(held))
    targets = {sample.key: _target(sample, classes) for sample in found}
    torch.manual_seed(config.seed)
    captioner, processor = _start(config)
    detector = Detector(captioner, replace(config.detector, classes=classes))
    loader = make_loader(
        data,
        sources,
        processor,
        steps=config.train.steps,
        seed=config.seed,
        bad_log=config.run / "bad_samples.jsonl",
        device=config.device,
    )
    trainer = Trainer(
        detector,
        DetectionObjective(targets),
        loader=loader,
        config=paced(config.train, config.encoder_lr, encoder=ENCODER),
        run_folder=config.run,
        trackers=make_trackers(config.train.trackers, config.run) if world.is_main else (),
        device=config.device,
    )
    trainer.resume()  # what it refuses must not be written down as what is run
    world.broadcast_from_main(lambda: begin(config, loader.fingerprint, {"ranks": world.size}))
    with threads(config.threads):
        result = trainer.fit(progress)
    weights = trainer.weights()

    def write() -> Path:
        finished, trained = _finished(captioner, detector, weights, config.run)
        folder = save_finished(config.run, finished, processor)
        save_detector(folder, trained)
        return folder

    folder = world.broadcast_from_main(write)
    return scored(
        config.run,
        config.evaluate,
        result,
        folder=folder,
        device=trainer.device,
        progress=progress,
    )


def _start(config: DetectionConfig) -> tuple[Captioner, Processor]:
    """The captioner that the encoder is taken from, and the processor for its images."""
    source = load(config.model, device="cpu", prepack=False)
    shape = source.model.config
    assert isinstance(shape, ModelConfig)
    size = config.image_size or shape.image.image_size
    fresh = build(replace(shape, head=None, image=replace(shape.image, image_size=size)))
    if config.weights == "pretrained":
        adopt_weights(fresh, source)
    return fresh, _squashed(source, size)


def _finished(
    captioner: Captioner, detector: Detector, weights: Mapping[str, Tensor], source: Path
) -> tuple[Captioner, Detector]:
    """Build the captioner and the detector of the trained weights, on the CPU.

    The ones that were trained may be on an accelerator, or sharded over ranks.
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


def _squashed(source: Predictor, size: int) -> Processor:
    """The model's processor, but images of this size are stretched to a square."""
    own = source.processor
    image = replace(own.image_config, image_size=size, resize="squash", trim=False)
    return Processor(ImageTransform(image), own.tokenizer, own.context_length)


def _objects(sources: Sources, progress: ProgressMaker) -> list[Sample]:
    """Every sample without its image; its metadata hold what is in it."""
    found = []
    keys: set[str] = set()
    with progress("reading boxes", sum(len(source) for _, source in sources)) as bar:
        for config, source in sources:
            for row in range(len(source)):
                bar.advance()
                try:
                    sample = words_of(source, row)
                except DataError:
                    continue  # the loader counts and names it when the run meets it
                if BOXES not in sample.metadata:
                    raise ConfigError(
                        f"source {config.title} gives no boxes; right is kind: coco_instances"
                    )
                if sample.key in keys:
                    raise DataError(
                        f"two images have the number {sample.key}, in {config.title} or in "
                        "another source; give each its own",
                        reason="duplicate_key",
                    )
                keys.add(sample.key)
                found.append(sample)
    return found


def _target(sample: Sample, classes: tuple[str, ...]) -> Target:
    """Boxes as shares of the image; one around a crowd teaches nothing."""
    sides = (sample.metadata["width"], sample.metadata["height"])
    numbers = {name: number for number, name in enumerate(classes)}
    boxes, labels = [], []
    for one in sample.metadata[BOXES]:
        if one["name"] not in numbers:
            raise DataError(
                f"image {sample.key} holds {one['name']!r}, which is not in detector.classes",
                reason="unknown_label",
            )
        if not one["crowd"]:
            left, top, width, height = one["box"]
            edges = (left, top, left + width, top + height)
            boxes.append([edge / sides[axis % 2] for axis, edge in enumerate(edges)])
            labels.append(numbers[one["name"]])
    return Target(torch.tensor(boxes).view(-1, 4), torch.tensor(labels, dtype=torch.int64))
