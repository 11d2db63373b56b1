"""Checkpoint manager: when to save, which to keep, and checks before a run resumes."""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed

from coca.core.errors import CocaError, ConfigError, StorageError
from coca.core.files.atomic import atomic_folder
from coca.model.checkpoint import (
    Checkpoint,
    commit,
    fingerprints,
    remove_others,
    save_checkpoint,
    step_folder,
)
from coca.model.sharded_safetensors import Groups, copy_to_cpu, write_shards
from coca.train.checkpoints.state import gather_full_tensors
from coca.train.distributed.context import DistributedContext

# Checks before resuming from a checkpoint: same model, same data, same kind of optimizer.


logger = logging.getLogger(__name__)

_ADVICE = "choose another run folder, or restore the earlier settings"


def require_same_run(checkpoint: Checkpoint, now: Mapping[str, Any]) -> None:
    """Raise if the identity of a run differs in a way that does not allow resuming.

    Other changes, such as a longer run or another learning rate, are allowed and logged.
    """
    before, folder = checkpoint.state["run"], checkpoint.folder
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
            f"{folder} contains the state of optimizer {names[0]!r}, not of {names[1]!r}; {_ADVICE}"
        )
    if checkpoint.step > now["train"]["steps"]:
        raise ConfigError(
            f"{folder} is beyond the {now['train']['steps']} steps asked for; "
            "raise steps, or choose another run folder"
        )
    for change in _changes(before["train"], now["train"], "train"):
        logger.warning("the run resumes with a changed setting: %s", change)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> list[str]:
    """Describe each setting that differs, with its dotted name."""
    phrases = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            phrases += _changes(old, new, f"{path}.{name}")
        elif old != new:
            phrases.append(f"{path}.{name} is {old} there and {new} here")
    return phrases


# Checkpoint manager: synchronous saves on one process, asynchronous saves on several ranks.


T = TypeVar("T")

OTHER_RANKS = "other_ranks"
"""Key in a checkpoint's state for the state of ranks 1 and up."""


class CheckpointManager:
    """Saves the checkpoints of one run, one at a time.

    On several ranks, all ranks must call every method at the same step. Each rank copies its shards
    to the CPU and continues to train, while a thread writes them. The threads use a separate
    process group, since their collectives must not interleave with those of training.
    """

    def __init__(self, run_dir: Path, *, keep: int, world: DistributedContext) -> None:
        self.newest: Path | None = None
        """The newest complete checkpoint known to this process."""
        self.step = 0
        """The last step that is saved or being saved."""
        self._run_dir = run_dir
        self._keep = keep
        self._world = world
        self._ranks = distributed.new_group(backend="gloo") if world.size > 1 else None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def found(self, folder: Path, step: int) -> None:
        """Record the checkpoint that the run resumes from."""
        self.newest, self.step = folder, step

    def save(
        self, step: int, groups: Groups, *, state: Mapping[str, Any], own: Mapping[str, Any]
    ) -> None:
        """Save `step`, unless it is saved; on several ranks, return before it is written.

        Args:
            step: Number of updates so far.
            groups: Tensors by name, by group; on several ranks full tensors or DTensors.
            state: JSON values of the run.
            own: JSON values of this rank.
        """
        self.wait()
        if step == self.step:
            return
        if self._ranks is None:
            whole = {group: gather_full_tensors(tensors) for group, tensors in groups.items()}
            try:
                self.newest = save_checkpoint(
                    self._run_dir, step, whole, state={**state, **own}, keep=self._keep
                )
            except StorageError as error:
                raise StorageError(f"{error}; the last good checkpoint {self.kept()}") from error
            self.step = step
            return
        # Copies, so that training does not change them while the thread reads them.
        arguments = (
            step,
            self.step,
            copy_to_cpu(groups),
            deepcopy(dict(state)),
            deepcopy(dict(own)),
        )
        self.step = step
        self._thread = threading.Thread(target=self._write, args=arguments, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether a background save has failed so far, so that `wait` raises."""
        return self._error is not None

    def wait(self) -> None:
        """Wait until the current checkpoint is complete."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, StorageError):
            raise StorageError(f"{error}; the last good checkpoint {self.kept()}") from error
        if error is not None:
            raise CocaError(f"a checkpoint was not finished: {error}") from error

    def kept(self) -> str:
        """Describe the newest complete checkpoint, as the end of a sentence."""
        return "does not exist yet" if self.newest is None else f"is {self.newest}"

    def _write(
        self, step: int, before: int, groups: Groups, state: dict[str, Any], own: dict[str, Any]
    ) -> None:
        try:
            self.newest = self._write_together(step, groups, state, own)
        except Exception as error:
            # The next `wait` raises it in the main thread.
            self._error, self.step = error, before

    def _write_together(
        self, step: int, groups: Groups, state: dict[str, Any], own: dict[str, Any]
    ) -> Path:
        """Save a checkpoint from all ranks, each with its shards; see `save_checkpoint`."""
        assert self._ranks is not None
        target = step_folder(self._run_dir, step)
        with ExitStack() as stack:
            unfinished = self._from_main(lambda: stack.enter_context(atomic_folder(target)))
            paths = write_shards(unfinished, groups, self._ranks)
            parts = self._agreed(lambda: (fingerprints(unfinished, paths), own))
            files = {name: fingerprint for shard, _ in parts for name, fingerprint in shard.items()}
            others = [their for _, their in parts[1:]]

            def finish() -> None:
                commit(unfinished, step, {**state, **own, OTHER_RANKS: others}, files)
                stack.close()
                remove_others(self._run_dir, step, keep=self._keep)

            self._from_main(finish)
        return target

    def _from_main(self, function: Callable[[], T]) -> T:
        """Run `function` on rank 0 only and return its result on all ranks."""
        (value, *_) = self._agreed(function if self._world.is_main else lambda: None)
        return value  # type: ignore[return-value]

    def _agreed(self, function: Callable[[], T]) -> list[T]:
        """Gather the results of `function` from all ranks; if it fails on one, all ranks raise."""
        own: Exception | None = None
        outcome: tuple[T | None, str | None]
        try:
            outcome = (function(), None)
        except Exception as error:
            own, outcome = error, (None, str(error))
        outcomes = self._world.gather(outcome, self._ranks)
        for _, failure in outcomes:
            if failure is not None:
                raise StorageError(failure) from own
        return [value for value, _ in outcomes]  # type: ignore[misc]
