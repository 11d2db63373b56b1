"""Start of every training run: build the trainer, resume it, and record the start."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

from coca.data.loading.feature_file import FeatureFile
from coca.model.lora import LoraConfig
from coca.processing.processor import Processor
from coca.train.config import TrainConfig
from coca.train.distributed.context import DistributedContext
from coca.train.objective import Objective
from coca.train.optim.optimizer import for_adapters
from coca.train.tracker import make_trackers
from coca.train.trainer import Trainer
from coca.workflows.training.pretrain_data import DataConfig, Sources, make_loader
from coca.workflows.training.run_dir import RunConfig, begin

ModelT = TypeVar("ModelT", bound=nn.Module)


@runtime_checkable
class DeviceRunConfig(RunConfig, Protocol):
    """A training recipe with the device to train on."""

    @property
    def device(self) -> str:
        """Argument of `coca.train.device.training_device`."""
        ...


def start_trainer(
    config: DeviceRunConfig,
    model: ModelT,
    objective: Objective[ModelT],
    data: DataConfig,
    sources: Sources,
    processor: Processor,
    *,
    features: Sequence[FeatureFile] = (),
    train: TrainConfig,
    facts: Mapping[str, Any],
) -> Trainer[ModelT]:
    """Build loader and trainer of a run, resume its last checkpoint, and record the start.

    All ranks must call this function.

    Args:
        config: Recipe of the run.
        model: Model to train.
        objective: The loss to minimize.
        data: How the sources are read.
        sources: Training data.
        processor: Transform and tokenizer of the model.
        features: Features in place of images, one file for each source.
        train: The training loop of the recipe, with the rates that the run derives.
        facts: Entries of `record.json` in addition to recipe, environment and data.

    Raises:
        ConfigError: The checkpoint belongs to another model, data order or optimizer, or the batch
            size cannot be split over the ranks.
        DataError: The samples of a source have another number of images than the run reads, or no
            text.
    """
    world = DistributedContext.current()
    loader = make_loader(
        data,
        sources,
        processor,
        steps=config.train.steps,
        seed=config.seed,
        bad_log=config.run / "bad_samples.jsonl",
        device=config.device,
        features=features,
    )
    trainer = Trainer(
        model,
        objective,
        loader=loader,
        config=train,
        run_dir=config.run,
        trackers=make_trackers(config.train.trackers, config.run) if world.is_main else (),
        device=config.device,
    )
    trainer.resume()  # before `begin`, so that a rejected configuration is not recorded
    recorded = {**facts, "precision": trainer.precision}
    world.broadcast_from_main(lambda: begin(config, loader.fingerprint, recorded))
    return trainer


def adapted(train: TrainConfig, lora: LoraConfig | None, *, head: bool) -> TrainConfig:
    """Return the training loop with the optimizer for LoRA adapters, if there are any."""
    if lora is None:
        return train
    return replace(train, optimizer=for_adapters(train.optimizer, lora, head=head))
