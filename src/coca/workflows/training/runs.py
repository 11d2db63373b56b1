"""List and compare the runs of a folder: settings that differ, losses and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from coca.core.errors import ConfigError
from coca.core.files.atomic import read_json
from coca.inference.run_model import BEST_FOLDER, TRAINING_FILE
from coca.train.tracker import flattened, read_metrics


class Best(NamedTuple):
    """The best evaluation of a run so far."""

    score: str
    value: float
    step: int


def best_of(run: Path) -> Best | None:
    """Return score, value and step of the best weights of a run, if it has any."""
    try:
        return Best(**read_json(run / BEST_FOLDER / TRAINING_FILE))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Run:
    """A run as its folder describes it."""

    name: str
    """Path of the run, relative to the folder that was searched."""
    step: int
    """Step of the newest row of metrics; 0 before the first."""
    settings: Mapping[str, Any]
    """Settings by dotted name."""
    metrics: Mapping[str, float]
    """Newest value of each metric and score."""
    best: Best | None


def find_runs(folder: Path) -> list[Run]:
    """Read all runs in a folder and its subfolders, sorted by name.

    Raises:
        ConfigError: There is no run.
    """
    found = sorted(path.parent for path in folder.rglob("recipe.json")) if folder.is_dir() else []
    if not found:
        raise ConfigError(
            f"{folder} contains no run: a run has a recipe.json, which `coca pretrain` and `coca "
            "finetune` write"
        )
    return [_read(run, folder) for run in found]


def _read(folder: Path, root: Path) -> Run:
    try:
        settings = flattened(dict(read_json(folder / "recipe.json")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder / 'recipe.json'} cannot be read: {error}") from error
    step = 0
    metrics: dict[str, float] = {}
    for row in read_metrics(folder):
        step = row.pop("step")
        metrics |= {name: it for name, it in row.items() if isinstance(it, int | float)}
    name = folder.relative_to(root).as_posix()
    name = folder.resolve().name if name == "." else name
    return Run(name, step, settings, metrics, best_of(folder))


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the settings of each run that are not the same in all runs."""
    names = sorted({name for run in runs for name in run.settings if name != "run"})
    differing = [it for it in names if len({repr(run.settings.get(it)) for run in runs}) > 1]
    return [{it: run.settings[it] for it in differing if it in run.settings} for run in runs]
