"""Parts that all training runs share: run folder, objective, loader and trainer.

run/  recipe.json  record.json  processor.json  tokenizer.json  metrics.jsonl
      bad_samples.jsonl  checkpoints/
model/       what `coca.load` reads
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import NonNegativeInt, model_validator
from torch import nn

from coca.core.config.frozen_config import Config, digest, to_dict
from coca.core.errors import ConfigError
from coca.core.files.atomic import write_json
from coca.core.provenance import record
from coca.data.loading.feature_file import FeatureFile
from coca.data.loading.loader import LoaderConfig, check_batch_size
from coca.model.coca import CoCa
from coca.model.deferred_weights import DeferredWeights
from coca.model.lora import LoraConfig
from coca.model.pretrained import save_model
from coca.predict.run_model import MODEL_FOLDER, TRAINING_FILE
from coca.predict.torch_loading import device_named
from coca.processing.processor import Processor
from coca.tasks import TaskResult
from coca.train.checkpoints import undisturbed
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import resolve_kind
from coca.train.losses import AUXILIARY_LOSSES, LossConfig
from coca.train.objective import CoCaObjective, Objective
from coca.train.optim.optimizer import for_adapters
from coca.train.tracker import make_trackers
from coca.train.trainer import Evaluation, TrainConfig, Trainer, TrainResult
from coca.workflows.training.pretrain_data import DataConfig, Sources, make_loader

# Run directory of training: recipe, record of all starts, and the finished model.


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult(TrainResult):
    """Result of a training run."""

    _: KW_ONLY
    run: Path
    """Folder of the run."""
    model: Path
    """Folder of the model, inside `run`; written when the run is finished or interrupted."""
    scores: tuple[TaskResult, ...] = ()
    """Results of `evaluate`, in order; empty on other ranks than the main rank, or if interrupted.
    """


class RunConfig(Config):
    """Settings that all training recipes share."""

    run: Path
    """Folder of the run; an interrupted run in it is resumed."""
    seed: int = 0
    """Seed of new weights, sample order and augmentation."""
    device: str = "auto"
    """A torch device; `auto` uses a CUDA GPU if there is one."""
    threads: NonNegativeInt = 0
    """CPU threads per operation; 0: torch's default. With a loader with workers, a small model on a
    busy machine is fastest with 1."""

    @model_validator(mode="after")
    def _check_run(self) -> "RunConfig":
        # A path has one slash of the two of a URL.
        if re.match(r"[a-z][a-z0-9]+:/", str(self.run)):
            raise ConfigError(
                f"run is {self.run}, but it must be a folder of a file system; runs in an object "
                "store are not supported"
            )
        return self


def check_start(config: RunConfig, train: TrainConfig, loader: LoaderConfig) -> None:
    """Raise for a device or a number of ranks that does not fit, before data is opened."""
    world = DistributedContext.current()
    if config.device != "auto":
        device_named(config.device)
    resolve_kind(train.parallel, train.fsdp, world)
    check_batch_size(loader.batch_size, world.size)


def compare_with_earlier(config: RunConfig, *, fixed: Sequence[str], logged: Sequence[str]) -> None:
    """Compare a recipe with the one that its run was started with.

    The trainer itself compares model, data order and optimizer.
    """
    path = config.run / "recipe.json"
    if not path.exists():
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), to_dict(config)
    for name in fixed:
        if before.get(name) != now[name]:
            raise ConfigError(
                f"{config.run} was started with {name} {before.get(name)}, now it is {now[name]}; "
                "use another folder for the new run"
            )
    if now["data"].get("resolution"):
        sizes = [recipe["data"]["loader"]["batch_size"] for recipe in (before, now)]
        if sizes[0] != sizes[1]:
            # Its stages end after a number of samples, so that they would end at another step.
            raise ConfigError(
                f"{config.run} was started with data.loader.batch_size {sizes[0]}, now it is "
                f"{sizes[1]}, but data.resolution needs a batch size that remains; use "
                f"{sizes[0]}, or another folder for a new run"
            )
    for name in logged:
        if before.get(name) != now[name]:
            logger.warning("%s resumes with changed settings of %s", config.run, name)


def begin(
    config: RunConfig, processor: Processor, data_fingerprint: str, facts: Mapping[str, Any]
) -> None:
    """Record the recipe and the environment; `record.json` has one entry per start.

    The processor is saved as well, so that checkpoints can be loaded as models.
    """
    config.run.mkdir(parents=True, exist_ok=True)
    processor.save(config.run)
    write_json(config.run / "recipe.json", to_dict(config))
    path = config.run / "record.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
    entry = record(config=config, seed=config.seed, data_fingerprint=data_fingerprint, extra=facts)
    write_json(path, {"recipe": digest(config), "starts": [*entries, entry]})


def save_finished(run: Path, model: CoCa, processor: Processor, *, step: int) -> Path:
    """Save the model of a run's last step, and return its folder."""
    folder = run / MODEL_FOLDER
    save_model(folder, model)
    processor.save(folder)
    write_json(folder / TRAINING_FILE, {"step": step})
    return folder


def weights_described(train: TrainConfig) -> str:
    """Describe the weights in the model folder: last step or exponential moving average."""
    if train.ema is None:
        return "those of the last step"
    return f"averages over the run (decay {train.ema.decay}); the last step's are in checkpoints"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's process-wide number of threads within the block; 0 changes nothing."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Objective of a run, with its auxiliary losses.


def make_objective(config: LossConfig, model: CoCa, processor: Processor) -> CoCaObjective:
    """Create the objective of a run, with its auxiliary losses."""
    embeds = config.contrastive_weight or config.auxiliary
    if model.config.image.keeps_embeddings and embeds:
        raise ConfigError(
            "the model keeps the embeddings of its frozen encoder (model.image.embeddings is "
            "tower), so it has captions to train only; set loss.contrastive_weight to 0, and leave "
            "out loss.auxiliary"
        )
    auxiliary = [AUXILIARY_LOSSES.get(it.kind)(it, model, processor) for it in config.auxiliary]
    return CoCaObjective(config, auxiliary)


# Start of every training run: build the trainer, resume it, and record the start.


ModelT = TypeVar("ModelT", bound=nn.Module)


def start_trainer(
    config: RunConfig,
    model: ModelT,
    objective: Objective[ModelT],
    data: DataConfig,
    sources: Sources,
    processor: Processor,
    *,
    features: Sequence[FeatureFile] = (),
    train: TrainConfig,
    facts: Mapping[str, Any],
    evaluation: Evaluation | None = None,
    initial: DeferredWeights | None = None,
) -> Trainer[ModelT]:
    """Build loader and trainer of a run, resume its last checkpoint, and record the start.

    All ranks must call this function.
    """
    world = DistributedContext.current()
    loader = make_loader(
        data,
        sources,
        processor,
        steps=train.steps,
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
        trackers=make_trackers(train.trackers, config.run) if world.is_main else (),
        evaluation=evaluation,
        device=config.device,
        initial=initial,
    )
    trainer.resume()  # before `begin`, so that a rejected configuration is not recorded
    if evaluation is not None:
        with undisturbed(model, trainer.device):
            evaluation.check(trainer)
    recorded = {**facts, "precision": trainer.precision}
    world.broadcast_from_main(lambda: begin(config, processor, loader.fingerprint, recorded))
    return trainer


def adapted(train: TrainConfig, lora: LoraConfig | None, *, head: bool) -> TrainConfig:
    """Return the training loop with the optimizer for LoRA adapters, if there are any."""
    if lora is None:
        return train
    return train.replace(optimizer=for_adapters(train.optimizer, lora, head=head))
