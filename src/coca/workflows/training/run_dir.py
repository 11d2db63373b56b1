"""Run directory of training: recipe, record of all starts, and the finished model.

run/  recipe.json  record.json  metrics.jsonl  bad_samples.jsonl  checkpoints/
model/       what `coca.load` reads
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from coca.core.config.serialization import digest, from_dict, to_dict
from coca.core.errors import ConfigError
from coca.core.files.atomic import write_atomic
from coca.core.provenance import record
from coca.model.captioner import Captioner
from coca.model.pretrained import save_model
from coca.processing.processor import Processor
from coca.train.config import TrainConfig

logger = logging.getLogger(__name__)


@runtime_checkable
class RunConfig(Protocol):
    """Settings that all training recipes share."""

    @property
    def run(self) -> Path:
        """Folder of the run."""
        ...

    @property
    def seed(self) -> int:
        """Seed of weights, sample order and augmentation."""
        ...

    @property
    def train(self) -> TrainConfig:
        """The training loop."""
        ...


def compare_with_earlier(config: RunConfig, *, fixed: Sequence[str], logged: Sequence[str]) -> None:
    """Compare a recipe with the one that its run was started with.

    The trainer itself compares model, data order and optimizer.

    Args:
        config: The recipe.
        fixed: Sections that must be equal.
        logged: Sections whose changes are logged as warnings.

    Raises:
        ConfigError: A fixed section differs.
    """
    path = config.run / "recipe.json"
    if not path.exists():
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), to_dict(config)
    with suppress(ConfigError):
        # An earlier version lists other settings, each with its default.
        before = to_dict(from_dict(type(config), before, source=str(path)))
    for name in fixed:
        if before.get(name) != now[name]:
            raise ConfigError(
                f"{config.run} was started with {name} {before.get(name)}, now it is {now[name]}; "
                "use another folder for the new run"
            )
    for name in logged:
        if before.get(name) != now[name]:
            logger.warning("%s resumes with changed settings of %s", config.run, name)


def begin(config: RunConfig, data_fingerprint: str, facts: Mapping[str, Any]) -> None:
    """Record the recipe and the environment; `record.json` has one entry per start."""
    config.run.mkdir(parents=True, exist_ok=True)
    write_json(config.run / "recipe.json", to_dict(config))
    path = config.run / "record.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
    entry = record(config=config, seed=config.seed, data_fingerprint=data_fingerprint, extra=facts)
    write_json(path, {"recipe": digest(config), "starts": [*entries, entry]})


def save_finished(run: Path, model: Captioner, processor: Processor) -> Path:
    """Save the finished model in the run directory, and return its folder."""
    folder = run / "model"
    save_model(folder, model)
    processor.save(folder)
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


def write_json(path: Path, content: object) -> None:
    """Write a JSON-serializable value, indented."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
