"""Checkpoints of a running training: at once where one process trains, else in the background."""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed

from coca.core.errors import CocaError, StorageError
from coca.core.files import atomic_folder
from coca.train.checkpoint import (
    commit,
    fingerprints,
    remove_others,
    save_checkpoint,
    step_folder,
)
from coca.train.distributed_context import DistributedContext
from coca.train.sharded_safetensors import Groups, staged, write_shards
from coca.train.state import gather_full_tensors

T = TypeVar("T")

OTHER_RANKS = "other_ranks"
"""Where a checkpoint's state keeps what ranks 1 and up have of their own."""


class CheckpointManager:
    """Writes the checkpoints of one run, one after the other.

    On several ranks every method must be called by all of them at the same step. Each rank copies
    its share to the CPU and goes on training, while a thread writes it. The ranks' threads talk in
    a process group of their own: in that of the training their messages would meet others.
    """

    def __init__(self, run_folder: Path, *, keep: int, world: DistributedContext) -> None:
        self.newest: Path | None = None
        """The newest checkpoint that is whole, as far as this process knows."""
        self.step = 0
        """The step that was saved last, or is being saved."""
        self._run_folder = run_folder
        self._keep = keep
        self._world = world
        self._ranks = distributed.new_group(backend="gloo") if world.size > 1 else None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def found(self, folder: Path, step: int) -> None:
        """Take note of a checkpoint that the run goes on from."""
        self.newest, self.step = folder, step

    def save(
        self, step: int, groups: Groups, *, state: Mapping[str, Any], own: Mapping[str, Any]
    ) -> None:
        """Save `step`, unless it is saved; on several ranks this returns before it is written.

        Args:
            step: Updates made so far.
            groups: Tensors by name, by group; on several ranks whole ones or pieces (DTensor).
            state: JSON-able values of the run.
            own: JSON-able values of this rank.

        Raises:
            StorageError: This checkpoint cannot be written, or on several ranks the one before.
        """
        self.wait()
        if step == self.step:
            return
        if self._ranks is None:
            whole = {group: gather_full_tensors(tensors) for group, tensors in groups.items()}
            try:
                self.newest = save_checkpoint(
                    self._run_folder, step, whole, state={**state, **own}, keep=self._keep
                )
            except StorageError as error:
                raise StorageError(f"{error}; the last good checkpoint {self.kept()}") from error
            self.step = step
            return
        # Neither changes any more while the thread reads it.
        arguments = (step, self.step, staged(groups), deepcopy(dict(state)), deepcopy(dict(own)))
        self.step = step
        self._thread = threading.Thread(target=self._write, args=arguments, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether `wait` would raise, as far as is known by now."""
        return self._error is not None

    def wait(self) -> None:
        """Let the checkpoint that is being written become whole.

        Raises:
            StorageError: It cannot be written.
            CocaError: Another rank has stopped meanwhile.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, StorageError):
            raise StorageError(f"{error}; the last good checkpoint {self.kept()}") from error
        if error is not None:
            raise CocaError(f"a checkpoint was not finished: {error}") from error

    def kept(self) -> str:
        """The end of a sentence about the newest whole checkpoint."""
        return "does not exist yet" if self.newest is None else f"is {self.newest}"

    def _write(
        self, step: int, before: int, groups: Groups, state: dict[str, Any], own: dict[str, Any]
    ) -> None:
        try:
            self.newest = self._write_together(step, groups, state, own)
        except Exception as error:
            # Told by the next `wait`: nobody would see it in this thread.
            self._error, self.step = error, before

    def _write_together(
        self, step: int, groups: Groups, state: dict[str, Any], own: dict[str, Any]
    ) -> Path:
        """The same as `save_checkpoint`, each rank with its part."""
        assert self._ranks is not None
        target = step_folder(self._run_folder, step)
        with ExitStack() as stack:
            unfinished = self._from_main(lambda: stack.enter_context(atomic_folder(target)))
            paths = write_shards(unfinished, groups, self._ranks)
            parts = self._agreed(lambda: (fingerprints(unfinished, paths), own))
            files = {name: told for shard, _ in parts for name, told in shard.items()}
            others = [their for _, their in parts[1:]]

            def finish() -> None:
                commit(unfinished, step, {**state, **own, OTHER_RANKS: others}, files)
                stack.close()
                remove_others(self._run_folder, step, keep=self._keep)

            self._from_main(finish)
        return target

    def _from_main(self, function: Callable[[], T]) -> T:
        """What `function` gives on the main rank, where alone it runs."""
        (value, *_) = self._agreed(function if self._world.is_main else lambda: None)
        return value  # type: ignore[return-value]

    def _agreed(self, function: Callable[[], T]) -> list[T]:
        """What `function` gives on each rank; if it fails on one, all raise that error."""
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
