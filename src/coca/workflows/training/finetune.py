"""Fine-tuning run: heads, adapters or all weights on labeled, captioned or question data.

run/  recipe.json  record.json  classes.json  metrics.jsonl  bad_samples.jsonl  checkpoints/
model/       what `coca.load` reads
scores/      report.json  report.md  report.html  of the tasks in `evaluate`
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError, DataError
from coca.core.files.atomic import read_json, write_json
from coca.core.malloc import keep_freed_memory
from coca.core.progress import progress_bar
from coca.data.loading.loader import LoaderConfig
from coca.data.sources.source import SourceConfig
from coca.metrics.answers import normalize_answer
from coca.model.checkpoint import has_checkpoint
from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.lora import LoraConfig, add_lora_, merged
from coca.model.pretrained import ModelConfig, assemble, build, with_image_size
from coca.predict.loading import load
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.tower import reusing_tower
from coca.processing.augment import AugmentConfig
from coca.processing.image import ImageTransform
from coca.processing.processor import Processor
from coca.tasks import TaskConfig, TaskResult
from coca.tasks.task import check_task
from coca.train.distributed.context import DistributedContext
from coca.train.losses import LossConfig
from coca.train.optim.param_groups import GroupConfig
from coca.train.trainer import TrainConfig, Trainer, TrainResult
from coca.workflows.evaluation.evaluate import evaluate
from coca.workflows.training.feature_cache import features_of_run
from coca.workflows.training.init_weights import adopt_weights
from coca.workflows.training.pretrain_data import (
    DataConfig,
    FeatureCacheConfig,
    Sources,
    dropout_fault,
    open_sources,
)
from coca.workflows.training.training_run import (
    RunConfig,
    RunResult,
    adapted,
    check_start,
    compare_with_earlier,
    make_objective,
    save_finished,
    start_trainer,
    threads,
    weights_described,
)
from coca.workflows.training.training_words import extend_caption_words

# Data of a fine-tuning run: configuration of sources, and classes found in them.


class FinetuneDataConfig(Config):
    """Training data of a fine-tuning run; preprocessing is that of the pretrained model."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Sources of the weighted mixture. A head that reads text needs `text: question` in each."""
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    """Batches and workers; classes and images per sample follow from the head."""
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    """Image augmentation, such as RandAugment; default: none."""
    features: FeatureCacheConfig | None = None
    """Train on cached features of a frozen image encoder (`encoder_lr: 0`, or
    `train.optimizer.freeze`); null: on images."""

    @model_validator(mode="after")
    def _check_rules(self) -> "FinetuneDataConfig":
        if self.loader.class_names or self.loader.images_per_sample != 1:
            raise ConfigError(
                "loader.class_names and loader.images_per_sample follow from the head; set "
                "head.classes and head.images_per_sample"
            )
        return self

    def for_head(self, head: HeadConfig | None) -> DataConfig:
        """Return the configuration of the data loader, with the classes of the head."""
        loader = self.loader
        if head is not None:
            loader = loader.replace(
                class_names=head.classes, images_per_sample=head.images_per_sample
            )
        return DataConfig(
            sources=self.sources, loader=loader, augment=self.augment, features=self.features
        )


class HeadChoice(Config):
    """Configuration of the head that a run trains; see `HeadConfig`."""

    reads: Literal["image", "text"] = "image"
    """Input of the head: `image` reads the image encoder's tokens, `text` the decoder states of
    the question."""
    images_per_sample: PositiveInt = 1
    """Images per sample: 1, 2 for a pair, or the number of frames of a video."""
    heads: PositiveInt = 8
    """Attention heads of the pooler; must divide the width of its input."""
    classes: tuple[str, ...] = ()
    """Class names; empty: all classes of the training data."""
    most_frequent: NonNegativeInt = 0
    """Keep only this many most frequent classes, such as the 3,129 answers of VQA; 0: all."""
    at_least: PositiveInt = 1
    """Keep only classes with at least this many occurrences; an answer counts once per annotator.
    """

    @model_validator(mode="after")
    def _check_rules(self) -> "HeadChoice":
        for name, value, unset in (
            ("at_least", self.at_least, 1),
            ("most_frequent", self.most_frequent, 0),
        ):
            if self.classes and value != unset:
                raise ConfigError(f"{name} must be {unset} if head.classes is set, got {value}")
        return self


def obtain_classes(
    run: Path,
    sources: Sources,
    head: HeadChoice,
    *,
    by_answers: bool,
) -> tuple[str, ...]:
    """Return the classes of the run's head; classes found in the data are saved in its folder.

    They are collected again until the run has a checkpoint. The main rank collects them; all ranks
    must call this function.
    """
    if head.classes:
        return head.classes
    path = run / "classes.json"

    def look() -> list[str]:
        if not (path.exists() and has_checkpoint(run)):
            found = find_classes(
                sources,
                by_answers=by_answers,
                most_frequent=head.most_frequent,
                at_least=head.at_least,
            )
            run.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
        return read_json(path)

    return tuple(DistributedContext.current().broadcast_from_main(look))


def find_classes(
    sources: Sources,
    *,
    by_answers: bool,
    most_frequent: int = 0,
    at_least: int = 1,
) -> list[str]:
    """Collect all labels, or all normalized answers, of the sources, sorted by name."""
    counts: Counter[str] = Counter()
    total = sum(len(source) for _, source in sources)
    with progress_bar("looking for classes", total) as bar:
        for names in _names(sources, by_answers):
            counts.update(names)
            bar.advance()
    # Normalization turns an answer such as "the" into an empty string.
    del counts[""]
    if len(counts) < 2:
        what, where = ("answer" if by_answers else "label"), _titles([it for it, _ in sources])
        there = f"only the {what} {next(iter(counts))!r}" if counts else f"no {what}"
        raise DataError(
            f"{where} contains {there}; a head needs two classes at least", reason="no_label"
        )
    often = [name for name in counts if counts[name] >= at_least]
    if len(often) < 2:
        raise DataError(
            f"{len(often)} of {len(counts)} classes occur at least {at_least} times; a head needs "
            "two, so lower head.at_least",
            reason="no_label",
        )
    ordered = sorted(often, key=lambda name: (-counts[name], name))
    return sorted(ordered[:most_frequent] if most_frequent else ordered)


def _names(sources: Sources, by_answers: bool) -> Iterator[Sequence[str]]:
    for _, source in sources:
        for row in range(len(source)):
            names: Sequence[str] = ()
            # The loader reports a bad sample during the run.
            with suppress(DataError):
                sample = source.read_metadata(row)
                names = sample.labels
                if by_answers:
                    names = [normalize_answer(answer) for answer in sample.answers]
            yield names


def _titles(configs: Sequence[SourceConfig]) -> str:
    return " and ".join(config.title for config in configs)


# Fine-tuning run: train a pretrained model with a head on a downstream task, and evaluate it.


ALL_BUT_HEAD = "!head"

SCORES_FOLDER = "scores"
"""Folder of the report in a run."""


class FinetuneConfig(RunConfig):
    """Configuration of a fine-tuning run, as in a recipe."""

    model: str
    """Pretrained model, by any name that `coca.load` accepts. It sets architecture, initial
    weights, tokenizer and image preprocessing."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` initializes the same architecture from scratch, as a baseline without pretraining.
    """
    image_size: PositiveInt | None = None
    """Side of the images, pixels; null: the model's. Position embeddings are interpolated."""
    head: HeadChoice | None = None
    """The classification head; null: none, as for captioning."""
    encoder_lr: NonNegativeFloat | None = None
    """Peak learning rate of all weights but the head; 0 freezes them. `train.optimizer.lr` then
    applies to the head only. null: the same rate for all weights."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the pretrained weights; they are merged into the finished
    model. `lora.lr` is their learning rate, independent of `encoder_lr`. null: none."""
    data: FinetuneDataConfig
    """The training data."""
    loss: LossConfig
    """The loss. For classes and answers: `classification_weight` 1, others 0. With a head that
    reads text, `captioning_weight` co-trains generating the answer."""
    train: TrainConfig
    """The training loop."""
    evaluate: tuple[TaskConfig, ...] = ()
    """Tasks to evaluate the finished model on."""

    @model_validator(mode="after")
    def _check_rules(self) -> "FinetuneConfig":
        faults = []
        if self.encoder_lr is not None and self.head is None:
            faults.append("encoder_lr is set, but there is no head; set train.optimizer.lr alone")
        if self.lora is not None and self.train.parallel == "fsdp":
            faults.append("lora does not support train.parallel fsdp; use ddp")
        if (self.head is None) != (self.loss.classification_weight == 0):
            faults.append(
                f"loss.classification_weight is {self.loss.classification_weight} and head is "
                f"{'null' if self.head is None else 'given'}; set both or neither"
            )
        if fault := dropout_fault(self.data.features, self.train.schedule):
            faults.append(fault)
        asks = [source.text == "question" for source in self.data.sources]
        if self.head is not None and self.head.reads == "text" and not all(asks):
            faults.append("head.reads is text; set text: question in each of data.sources")
        if faults:
            raise ConfigError("; ".join(faults))
        return self


def finetune(config: FinetuneConfig) -> RunResult:
    """Fine-tune a model on a downstream task and evaluate it; the same call resumes a run.

    In distributed training (`coca.train.distributed.context`), every process calls this function.

    Raises:
        CocaError: The recipe, the data or the run folder is invalid; the message gives the reason.
    """
    keep_freed_memory()
    check_start(config, config.train, config.data.loader)
    world = DistributedContext.current()
    sources = open_sources(config.data.sources)
    fixed = ("seed", "model", "weights", "image_size", "head", "lora")
    world.broadcast_from_main(
        lambda: compare_with_earlier(config, fixed=fixed, logged=("data", "loss"))
    )
    source = load_coca(config.model, device="cpu", prepack=False)
    head = _head(config, sources)
    processor = _processor(config, source, sources)
    torch.manual_seed(config.seed)
    with reusing_tower(source.model):
        model = build(_shape(config, source, head))
    facts: dict[str, Any] = {"ranks": world.size, "model_weights": weights_described(config.train)}
    if config.weights == "pretrained":
        facts["model"] = asdict(adopt_weights(model, source))
    del source
    if config.lora is not None:
        add_lora_(model, config.lora)
    # The untrained model suffices to find errors of the evaluation before training.
    untrained = TorchPredictor(model, processor, fingerprint="", source=config.model)
    for task in config.evaluate:
        check_task(untrained, task)
    # All ranks have the same weights; from here each rank has its own random state.
    torch.manual_seed(config.seed + world.rank)
    if config.lora is None:
        paces = paced(config.train, config.encoder_lr)
    else:
        paces = adapted(config.train, config.lora, head=config.head is not None)
    data = config.data.for_head(head)
    features = features_of_run(
        data,
        sources,
        model,
        processor.image,
        paces,
        device=config.device,
    )
    objective = make_objective(config.loss, model, processor)
    trainer = start_trainer(
        config,
        model,
        objective,
        data,
        sources,
        processor,
        features=features,
        train=paces,
        facts=facts,
    )
    with threads(config.threads):
        result = trainer.fit()
        return _finish(config, trainer, processor, result)


def paced(
    train: TrainConfig, encoder_lr: float | None, *, encoder: str = ALL_BUT_HEAD
) -> TrainConfig:
    """Set a separate learning rate for the pretrained weights."""
    if encoder_lr is None:
        return train
    optimizer = train.optimizer
    if encoder_lr == 0:
        optimizer = optimizer.replace(freeze=(encoder, *optimizer.freeze))
    else:
        slower = GroupConfig(match=encoder, lr_scale=encoder_lr / optimizer.lr)
        optimizer = optimizer.replace(groups=(slower, *optimizer.groups))
    return train.replace(optimizer=optimizer)


def _head(config: FinetuneConfig, sources: Sources) -> HeadConfig | None:
    choice = config.head
    if choice is None:
        return None
    by_answers = config.data.loader.class_from == "answers"
    classes = obtain_classes(config.run, sources, choice, by_answers=by_answers)
    return HeadConfig(
        classes=classes,
        reads=choice.reads,
        images_per_sample=choice.images_per_sample,
        heads=choice.heads,
    )


def _shape(config: FinetuneConfig, source: TorchPredictor, head: HeadConfig | None) -> ModelConfig:
    """Return the model's configuration with the head and image size of the run."""
    shape: ModelConfig = source.model.config
    try:
        if config.image_size is not None:
            shape = with_image_size(shape, config.image_size)
        return shape.replace(head=head)
    except ConfigError as error:
        raise ConfigError(f"the head does not fit {config.model}: {error}") from None


def _processor(config: FinetuneConfig, source: TorchPredictor, sources: Sources) -> Processor:
    own = source.processor
    size = config.image_size or own.image_config.image_size
    return Processor(
        ImageTransform(own.image_config.replace(image_size=size)),
        own.tokenizer,
        own.context_length,
        caption_words=extend_caption_words(config.run, sources, own, config.loss),
    )


def _finish(
    config: FinetuneConfig,
    trainer: Trainer[CoCa],
    processor: Processor,
    result: TrainResult,
) -> RunResult:
    """Gather the weights from all ranks, write the model folder and evaluate the model."""
    world = DistributedContext.current()
    weights = trainer.weights(keep=world.is_main)

    def write() -> Path:
        with reusing_tower(trainer.model):
            finished = assemble(trainer.model.config, merged(weights), source=config.run)
        return save_finished(config.run, finished, processor, step=result.step)

    folder = world.broadcast_from_main(write)
    return scored(config, config.evaluate, result, folder=folder, device=trainer.device)


def scored(
    config: RunConfig,
    tasks: Sequence[TaskConfig],
    result: TrainResult,
    *,
    folder: Path,
    device: torch.device,
) -> RunResult:
    """Evaluate the finished model on the main rank, unless the run was interrupted."""
    scores: list[TaskResult] = []
    if DistributedContext.current().is_main and tasks and not result.interrupted:
        predictor = load(folder, device=str(device))
        scores = evaluate(predictor, tasks, out=config.run / SCORES_FOLDER)
    return RunResult(**vars(result), run=config.run, model=folder, scores=tuple(scores))
