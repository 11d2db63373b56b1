"""The folder of a run that trains: what is run, what was run, and the finished model.

run/  recipe.json  record.json  metrics.jsonl  bad_samples.jsonl  checkpoints/
model/       what `coca.load` reads
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from coca.core.config import digest, to_dict
from coca.core.errors import ConfigError
from coca.core.files import write_atomic
from coca.core.provenance import record
from coca.model.captioner import Captioner
from coca.model.pretrained import save_model
from coca.processing.processor import Processor
from coca.train.config import TrainConfig

logger = logging.getLogger(__name__)


@runtime_checkable
class RunConfig(Protocol):
    """What the recipe of any training says of its folder."""

    @property
    def run(self) -> Path:
        """Its folder."""
        ...

    @property
    def seed(self) -> int:
        """Of weights, order and augmentation."""
        ...

    @property
    def train(self) -> TrainConfig:
        """The loop."""
        ...


def compare_with_earlier(config: RunConfig, *, fixed: Sequence[str], told: Sequence[str]) -> None:
    """Holds a recipe against the one that the run in its folder was begun with.

    The trainer itself compares model, order of the data and optimiser.

    Args:
        config: The recipe.
        fixed: Sections that must be equal.
        told: Sections whose changes are logged.

    Raises:
        ConfigError: A fixed one differs.
    """
    path = config.run / "recipe.json"
    if not path.exists():
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), to_dict(config)
    for name in fixed:
        if before.get(name) != now[name]:
            raise ConfigError(
                f"{config.run} was begun with {name} {before.get(name)}, now it is {now[name]}; "
                "give the new run another folder"
            )
    for name in told:
        if before.get(name) != now[name]:
            logger.warning("%s goes on with changed settings of %s", config.run, name)


def begin(config: RunConfig, data_fingerprint: str, facts: Mapping[str, Any]) -> None:
    """Write down what is run: one entry for each start, so that a resumed run tells all of it."""
    config.run.mkdir(parents=True, exist_ok=True)
    write_json(config.run / "recipe.json", to_dict(config))
    path = config.run / "record.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
    entry = record(config=config, seed=config.seed, data_fingerprint=data_fingerprint, extra=facts)
    write_json(path, {"recipe": digest(config), "starts": [*entries, entry]})


def save_finished(run: Path, model: Captioner, processor: Processor) -> Path:
    """Write the folder of the finished model within the run's, and give it."""
    folder = run / "model"
    save_model(folder, model)
    processor.save(folder)
    return folder


def weights_described(train: TrainConfig) -> str:
    """What the weights in the model's folder are."""
    if train.ema is None:
        return "those of the last step"
    return f"averages over the run (decay {train.ema.decay}); the last step's are in checkpoints"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch's number of threads is one for the whole process; it is put back afterwards."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_json(path: Path, content: object) -> None:
    """Write values that JSON can hold, for people to read as well."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
