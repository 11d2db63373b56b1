"""Models of training runs: any checkpoint as a model folder, while its run continues and after it.

A checkpoint contains the weights of training. Its model is what the run would finish with at that
step: averages replace the weights, adapters and word maps are merged.
"""

import logging
from pathlib import Path

from coca.core.errors import ModelError, StorageError
from coca.core.files.atomic import atomic_folder, read_json, user_cache
from coca.model.checkpoint import (
    CHECKPOINT_FOLDER,
    COMMIT_FILE,
    Checkpoint,
    checkpoint_folders,
    is_checkpoint,
    load_checkpoint,
    load_newest,
)
from coca.model.lora import merged
from coca.model.pretrained import CONFIG_FILE, MODEL_CONFIGS, assemble, build_config, save_model
from coca.predict.model_kinds import is_model
from coca.processing.processor import PROCESSOR_FILE, Processor

logger = logging.getLogger(__name__)

MODEL_FOLDER, BEST_FOLDER = "model", "best"
"""Folders of a run: the model of its last step, and the best of its evaluations."""
TRAINING_FILE = "training.json"
"""File of these folders with the `step` of the weights, and of the best its `score` and `value`."""
CONVERTED_FOLDER = "converted"
"""Folder of a checkpoint with its model, written when it is first loaded."""

_GROUPS = ("model", "ema")


def model_of_run(path: Path) -> Path:
    """Resolve a run or a checkpoint to the folder of its model; any other folder is unchanged.

    Until the finished model is written, a run has the model of its newest checkpoint.
    """
    if is_checkpoint(path):
        return _converted(load_checkpoint(path, groups=_GROUPS))
    if (path / CONFIG_FILE).exists():
        return path
    finished = path / MODEL_FOLDER
    newest = next((_step(folder) for folder in checkpoint_folders(path)), -1)
    if finished.is_dir() and newest <= trained_steps(finished):
        return finished
    checkpoint = load_newest(path, groups=_GROUPS)
    if checkpoint is not None:
        return _converted(checkpoint)
    if (path / "recipe.json").is_file():
        raise ModelError(
            f"{path} is a run without a checkpoint so far; train.save_every is the number of steps "
            "between two"
        )
    return path


def trained_steps(folder: Path) -> float:
    """Return the number of training steps of a run's model; infinite if it is not recorded."""
    try:
        return float(read_json(folder / TRAINING_FILE)["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _converted(checkpoint: Checkpoint) -> Path:
    """Write the model of a checkpoint into its folder once, or into the user's cache."""
    folder = checkpoint.folder.resolve()
    identity = read_json(folder / COMMIT_FILE)["sha256"][:16]
    places = (folder / CONVERTED_FOLDER, user_cache() / "models" / f"run-{identity}")
    found = next((place for place in places if is_model(place)), None)
    if found is not None:
        return found
    run = folder.parent.parent
    if folder.parent.name != CHECKPOINT_FOLDER or not (run / PROCESSOR_FILE).is_file():
        raise ModelError(
            f"{checkpoint.folder} has weights, but its run {run} has no {PROCESSOR_FILE}; keep a "
            "checkpoint in the folder of its run, and resume runs of an older version once"
        )
    about = checkpoint.state["run"]
    if (architecture := about.get("architecture", "coca")) not in MODEL_CONFIGS:
        raise ModelError(
            f"{checkpoint.folder} is not of a captioner: its model loads "
            f"when the run is finished, from {run / MODEL_FOLDER}"
        )
    weights = merged({**checkpoint.group("model"), **checkpoint.group("ema")})
    config = build_config(architecture, about["model"], checkpoint.folder)
    model = assemble(config, weights, source=checkpoint.folder)
    for place in places:
        try:
            with atomic_folder(place) as unfinished:
                save_model(unfinished, model)
                Processor.load(run).save(unfinished)
        except StorageError as error:
            logger.info("%s", error)
        else:
            return place
    raise ModelError(
        f"the model of {checkpoint.folder} can be written neither there nor to a cache"
    )
