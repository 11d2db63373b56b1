"""Checkpoint files: written atomically, verified by hash, without pickle.

    RUN/checkpoints/step_00000100/
        model.safetensors       weights, by name
        optimizer.safetensors   optimizer tensors, as `exp_avg/NAME OF PARAMETER`
        state.json              step and all other state of the run
        commit.json             size and SHA-256 of the files above, written last

If several ranks save, a group of tensors is a folder of shards instead of one file
(`sharded_safetensors`). The folder is written under a temporary name, flushed to disk and then
renamed. Hashes are still needed: a flipped byte inside a tensor is a valid safetensors file.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError
from torch import Tensor

from coca.core.errors import ModelError, StorageError
from coca.core.files.atomic import atomic_folder, sha256_file
from coca.model.sharded_safetensors import SUFFIX, Groups, read_group, write_whole

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"
STATE_FILE, COMMIT_FILE = "state.json", "commit.json"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, to resume from `step`; tensors are loaded lazily."""

    folder: Path
    step: int
    state: dict[str, Any]

    def group(self, name: str) -> dict[str, Tensor]:
        """Load the tensors of one group to the CPU; empty if the group is missing."""
        try:
            return read_group(self.folder, name)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{self.folder} cannot be read: {error}") from error


def save_checkpoint(
    run_dir: str | Path, step: int, groups: Groups, *, state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Save one checkpoint from this process alone, then remove all but the newest `keep`.

    Checkpoints of later steps are also removed: this run resumed from an older checkpoint, so they
    do not belong to it.

    Returns:
        The checkpoint's folder.
    """
    target = step_folder(run_dir, step)
    with atomic_folder(target) as unfinished:
        try:
            write_whole(unfinished, groups)
        except SafetensorError as error:
            raise StorageError(f"{target} cannot be written: {error}") from error
        commit(unfinished, step, state, fingerprints(unfinished, unfinished.iterdir()))
    remove_others(run_dir, step, keep=keep)
    return target


def step_folder(run_dir: str | Path, step: int) -> Path:
    """Return the checkpoint folder of a step."""
    return Path(run_dir) / CHECKPOINT_FOLDER / step_name(step)


def step_name(step: int) -> str:
    """Name the folder of a step; names sort by step."""
    return f"step_{step:08d}"


def fingerprints(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    """Compute size and SHA-256 of checkpoint files, by their relative path."""
    return {path.relative_to(folder).as_posix(): _fingerprint(path) for path in sorted(files)}


def commit(folder: Path, step: int, state: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Write state and commit file, the last of a checkpoint; `files` are its `fingerprints`."""
    content = {"format_version": FORMAT_VERSION, "step": step, "state": dict(state)}
    (folder / STATE_FILE).write_bytes(_encode(content))
    sealed = {**files, STATE_FILE: _fingerprint(folder / STATE_FILE)}
    (folder / COMMIT_FILE).write_bytes(_seal(sealed))


def remove_others(run_dir: str | Path, step: int, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`."""
    assert keep >= 1, "a run without a checkpoint cannot resume"
    folders = checkpoint_folders(run_dir)
    kept = [folder for folder in folders if _step(folder) <= step][:keep]
    for folder in set(folders) - set(kept):
        shutil.rmtree(folder, ignore_errors=True)


def has_checkpoint(run_dir: str | Path) -> bool:
    """Return whether the run has a checkpoint, complete or damaged."""
    return bool(checkpoint_folders(run_dir))


Verify: TypeAlias = Callable[[Path, Mapping[str, Any]], str | None]
"""Describes the damage to a folder's files, given their fingerprints; None if there is none."""


def find_damage(folder: Path, files: Mapping[str, Any]) -> str | None:
    """Compare files with the fingerprints of the commit file; describe the first that differs."""
    for name, wanted in files.items():
        try:
            whole = _fingerprint(folder / name) == wanted
        except (OSError, StorageError) as error:
            return str(error)
        if not whole:
            return f"{folder / name} is not as it was written"
    return None


def load_newest(
    run_dir: str | Path, *, groups: Sequence[str] = (), verify: Verify = find_damage
) -> Checkpoint | None:
    """Find the newest complete checkpoint; None if the run has no checkpoints.

    Damaged checkpoints are logged and skipped. With `groups`, the tensors of other groups are not
    read. `verify` may share the reading with other processes.
    """
    damaged = []
    for folder in checkpoint_folders(run_dir):
        try:
            return _load(folder, groups, verify)
        except _DamagedError as error:
            damaged.append(str(error))
            logger.warning("checkpoint passed over: %s", error)
    if damaged:
        raise ModelError(
            f"no checkpoint in {Path(run_dir) / CHECKPOINT_FOLDER} is whole "
            f"({'; '.join(damaged)}); remove that folder to start the run afresh"
        )
    return None


def load_checkpoint(folder: Path, *, groups: Sequence[str] = ()) -> Checkpoint:
    """Verify one checkpoint and read its state; `groups` as in `load_newest`."""
    try:
        return _load(folder, groups)
    except _DamagedError as error:
        raise ModelError(f"{error}; load another checkpoint of the run") from None


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder contains a checkpoint."""
    return (folder / COMMIT_FILE).is_file() and (folder / STATE_FILE).is_file()


def remove_unfinished(run_dir: str | Path) -> None:
    """Remove temporary folders of interrupted saves; only for rank 0, at the start of a run."""
    for pattern in (".incomplete-*", ".replaced-*"):
        for folder in (Path(run_dir) / CHECKPOINT_FOLDER).glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


class _DamagedError(Exception):
    """A checkpoint file differs from what was written."""


def _load(folder: Path, groups: Sequence[str] = (), verify: Verify = find_damage) -> Checkpoint:
    if damage := verify(folder, _committed(folder, groups)):
        raise _DamagedError(damage)
    try:
        content = json.loads((folder / STATE_FILE).read_bytes())
    except OSError as error:
        raise _DamagedError(f"{folder} cannot be read: {error}") from error
    if content["format_version"] != FORMAT_VERSION:
        raise ModelError(
            f"{folder} has format_version {content['format_version']}; this version of coca "
            f"reads {FORMAT_VERSION}"
        )
    if folder != step_folder(folder.parent.parent, content["step"]):
        raise _DamagedError(f"{folder} contains step {content['step']}")
    return Checkpoint(folder, content["step"], content["state"])


def _committed(folder: Path, groups: Sequence[str]) -> dict[str, Any]:
    """Read the fingerprints in the commit file, and verify that file by its own hash."""
    path = folder / COMMIT_FILE
    try:
        written = path.read_bytes()
        files = json.loads(written)["files"]
        if written != _seal(files):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise _DamagedError(f"{path} is missing or damaged") from None
    return {
        name: wanted
        for name, wanted in files.items()
        # `GROUP.safetensors`, or `GROUP/shard-....safetensors`.
        if not groups or name == STATE_FILE or name.partition("/")[0].removesuffix(SUFFIX) in groups
    }


def _seal(files: Mapping[str, Any]) -> bytes:
    """Build the content of the commit file, with a hash of itself."""
    own = hashlib.sha256(_encode(files)).hexdigest()
    return _encode({"files": files, "sha256": own})


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _encode(content: Mapping[str, Any]) -> bytes:
    # NaN is not valid JSON. A state with NaN must fail here and not at load time.
    return (json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode()


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def checkpoint_folders(run_dir: str | Path) -> list[Path]:
    """List the folders of all checkpoints, newest first."""
    folders = (Path(run_dir) / CHECKPOINT_FOLDER).glob("step_*")
    return sorted(
        (folder for folder in folders if re.fullmatch(r"step_\d{8,}", folder.name)),
        key=_step,
        reverse=True,
    )
