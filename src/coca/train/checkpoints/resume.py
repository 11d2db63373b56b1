"""Checks before resuming from a checkpoint: same model, same data, same kind of optimizer."""

import logging
from collections.abc import Mapping
from typing import Any

from coca.core.config.renamed_settings import with_current_names
from coca.core.errors import ConfigError
from coca.model.config import HeadConfig
from coca.train.checkpoints.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_ADVICE = "choose another run folder, or restore the earlier settings"


def run_identity(
    model: Mapping[str, Any], train: Mapping[str, Any], fingerprint: str
) -> dict[str, Any]:
    """Build the identity of a run in a checkpoint, for `require_same_run`.

    Args:
        model: Model configuration as JSON values.
        train: Training configuration as JSON values.
        fingerprint: Fingerprint of the data.
    """
    return {"model": dict(model), "train": dict(train), "data": fingerprint}


def require_same_run(checkpoint: Checkpoint, now: Mapping[str, Any]) -> None:
    """Raise if the configuration differs in a way that does not allow resuming.

    Other changes, such as a longer run or another learning rate, are allowed and logged.

    Raises:
        ConfigError: Model, data or optimizer differ, or the run is beyond its last step.
    """
    before, folder = checkpoint.state["run"], checkpoint.folder
    # Checkpoints of earlier versions, with one kind of image encoder only, do not name it.
    before["model"].get("image", {}).setdefault("kind", "vit")
    if head := before["model"].get("head"):
        before["model"]["head"] = with_current_names(HeadConfig, head)
    if changes := _changes(before["model"], now["model"], "model"):
        raise ConfigError(f"{folder} is of another model: {'; '.join(changes)}; {_ADVICE}")
    if before["data"] != now["data"]:
        raise ConfigError(
            f"{folder} was trained on other data or in another order: fingerprint "
            f"{before['data']} there, {now['data']} here; {_ADVICE}"
        )
    names = [settings["train"]["optimizer"]["name"] for settings in (before, now)]
    if names[0] != names[1]:
        raise ConfigError(
            f"{folder} holds the state of optimizer {names[0]!r}, not of {names[1]!r}; {_ADVICE}"
        )
    if checkpoint.step > now["train"]["steps"]:
        raise ConfigError(
            f"{folder} is beyond the {now['train']['steps']} steps asked for; "
            "raise steps, or choose another run folder"
        )
    for change in _changes(before["train"], now["train"], "train"):
        logger.warning("the run resumes with a changed setting: %s", change)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> list[str]:
    """Describe each setting that differs, with its dotted name.

    A setting that exists in one version of this package only counts as different if it is on.
    """
    phrases = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if not (name in before and name in now) and not (old or new):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            phrases += _changes(old, new, f"{path}.{name}")
        elif old != new:
            phrases.append(f"{path}.{name} is {old} there and {new} here")
    return phrases
