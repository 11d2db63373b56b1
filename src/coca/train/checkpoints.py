"""Checkpoints of a run: its state as tensors and JSON values, when to save, and what may resume.

Optimizer state is keyed by parameter name and not by order, so that a checkpoint does not depend on
parameter groups. If a model is sharded (DTensor), each rank saves its shards, and reads only them
when a run resumes. Tensors that all ranks have are read by rank 0, which sends them to the others.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, distributed, nn
from torch.distributed import tensor as dtensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim import Optimizer

from coca.core.errors import CocaError, ConfigError, ModelError, StorageError
from coca.core.files.atomic import atomic_folder
from coca.model.checkpoint import (
    CHECKPOINT_FOLDER,
    Checkpoint,
    commit,
    find_damage,
    fingerprints,
    load_newest,
    remove_others,
    save_checkpoint,
    step_folder,
)
from coca.model.deferred_weights import DeferredWeights
from coca.model.losses.collectives import local_shard
from coca.model.sharded_safetensors import (
    Description,
    Groups,
    TensorPart,
    copy_to_cpu,
    describe_group,
    read_parts,
    write_shards,
)
from coca.train.distributed.context import DistributedContext

logger = logging.getLogger(__name__)

T = TypeVar("T")

# State of a run: model, optimizer and random generators.


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, as views; tied tensors under one name."""
    tensors: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def gather_full_tensors(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Gather full tensors from shards, on the CPU of each rank that keeps them.

    Every rank must call it. Without `keep`, a rank has one full tensor at a time.
    """
    found = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = full.cpu()
    return found


class SavedGroup:
    """A group of a checkpoint's tensors, which all ranks read together, each its own shards."""

    def __init__(self, folder: Path, group: str, world: DistributedContext) -> None:
        """Read the description of the group on rank 0."""
        self._folder, self._group, self._world = folder, group, world
        self.described: dict[str, Description] = world.broadcast_from_main(
            lambda: self._read(lambda: describe_group(folder, group))
        )
        """Type and shape of each full tensor by name."""

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Set tensors to what was saved under their names; all ranks must call it.

        Raises:
            ModelError: A tensor is missing or has another shape, or a file cannot be read.
        """
        for name, tensor in tensors.items():
            saved = self.described[name].shape if name in self.described else None
            if saved != tuple(tensor.shape):
                there = "is missing" if saved is None else f"has shape {saved}"
                raise ModelError(
                    f"the checkpoint is of another model: {name} {there} there and has shape "
                    f"{tuple(tensor.shape)} here"
                )
        shards = {name: tensor for name, tensor in tensors.items() if _is_sharded(tensor)}
        whole = {
            name: local_shard(tensor) for name, tensor in tensors.items() if name not in shards
        }
        read = {**shards, **whole} if self._world.is_main else shards
        parts = {name: _own_part(tensor) for name, tensor in read.items()}
        fault: ModelError | None = None
        try:
            self._read(
                lambda: read_parts(
                    self._folder, self._group, parts, start=self._world.rank / self._world.size
                )
            )
        except ModelError as error:
            fault = error
        if fault := next((it for it in self._world.gather(fault) if it is not None), None):
            raise fault
        for _, tensor in sorted(whole.items()):
            self._world.broadcast_tensor_(tensor)

    def _read(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{self._folder} cannot be read: {error}") from error


def _is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor) and any(isinstance(it, Shard) for it in tensor.placements)


def _own_part(tensor: Tensor) -> TensorPart:
    """Locate this rank's part of a full tensor, which is all of it without shards."""
    local = local_shard(tensor)
    offsets = [0] * local.ndim
    # A rank without any row of a small tensor has no chunk.
    if isinstance(tensor, DTensor) and local.numel():
        offsets = list(tensor.__create_chunk_list__()[0].offsets)
    return TensorPart(local, offsets)


@torch.no_grad()
def init_weights_(model: nn.Module, initial: DeferredWeights) -> None:
    """Initialize every parameter and buffer; each rank has one full tensor at a time."""
    for name, tensor in model_tensors(model).items():
        part = _own_part(tensor)
        ends = (start + size for start, size in zip(part.offsets, part.tensor.shape, strict=True))
        where = tuple(slice(*ends) for ends in zip(part.offsets, ends, strict=True))
        part.tensor.copy_(initial.compute(name, tensor)[where])


def restore_model(model: nn.Module, saved: SavedGroup) -> None:
    """Restore every parameter and buffer that `model_tensors` returns."""
    own = model_tensors(model)
    if different := sorted(own.keys() ^ saved.described.keys()):
        raise ModelError(
            f"the checkpoint is of another model: {len(different)} tensors exist in only one of "
            f"the two, such as {different[0]}"
        )
    saved.read_into(own)


def optimizer_state(
    model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer state of each parameter: tensors and plain values.

    Keys of both are `KIND/NAME`, such as `exp_avg/vocabulary.weight`. Hyperparameters such as betas
    are not included: they come from the configuration.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{kind}/{name}"] = value
            else:
                values[f"{kind}/{name}"] = value
    return tensors, values


def restore_optimizer(
    model: nn.Module, optimizer: Optimizer, saved: SavedGroup, values: Mapping[str, Any]
) -> None:
    """Restore the optimizer from the tensors and values that `optimizer_state` returned."""
    packed = optimizer.state_dict()
    index = {
        parameter: number
        for group, numbers in zip(optimizer.param_groups, packed["param_groups"], strict=True)
        for parameter, number in zip(group["params"], numbers["params"], strict=True)
    }
    updated = {name: p for name, p in model.named_parameters() if p in index}
    for key in (*saved.described, *values):
        if (name := key.partition("/")[2]) not in updated:
            raise ModelError(
                f"the checkpoint's optimizer updates {name}, which is frozen or absent here"
            )
    tensors = {
        key: _empty_moment(description, updated[key.partition("/")[2]])
        for key, description in saved.described.items()
    }
    saved.read_into(tensors)
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **values}.items():
        kind, _, name = key.partition("/")
        state.setdefault(index[updated[name]], {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": packed["param_groups"]})


def _empty_moment(description: Description, parameter: Tensor) -> Tensor:
    """Allocate an optimizer tensor, sharded like its parameter if that is a DTensor."""
    dtype, shape = description
    if not isinstance(parameter, DTensor) or not shape:
        return torch.empty(shape, dtype=dtype)
    # A moment of another shape than its parameter, such as a row of means, is replicated.
    replicated = [Replicate() for _ in parameter.placements]
    placements = parameter.placements if shape == tuple(parameter.shape) else replicated
    return dtensor.empty(
        shape, dtype=dtype, device_mesh=parameter.device_mesh, placements=placements
    )


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every global random generator, as JSON values."""
    version, numbers, gauss = random.getstate()
    # Third-party code uses the global generator; this package does not.
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    inner = legacy["state"]
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": {**legacy, "state": {**inner, "key": inner["key"].tolist()}},
        "torch": _hex(torch.get_rng_state()),
    }
    if device.type == "cuda":
        state["cuda"] = _hex(torch.cuda.get_rng_state(device))
    return state


def restore_random(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore every global random generator from the result of `random_state`.

    The accelerator's generator is restored only if the checkpoint has its state.
    """
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    inner = state["numpy"]["state"]
    key = np.array(inner["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**inner, "key": key}})  # noqa: NPY002
    torch.set_rng_state(_bytes(state["torch"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_bytes(state["cuda"]), device)


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the random generators and the mode of every module after the block."""
    state = random_state(device)
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        restore_random(state, device)


def _hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


# The newest complete checkpoint, verified by all ranks together.


def load_newest_together(
    run_dir: Path, world: DistributedContext, accept: Callable[[Checkpoint], None]
) -> Checkpoint | None:
    """Find the newest complete checkpoint, as `load_newest` does; each rank hashes some files.

    `accept` may reject it on rank 0. Each rank gets the state of the run and its own state, such as
    its random generators; a rank that the run did not have before gets those of rank 0.
    """
    others: list[Mapping[str, Any]] = []

    def share(request: tuple[Path, Mapping[str, Any]] | None) -> list[str | None]:
        """Verify this rank's part of what rank 0 asks for; empty if that is nothing."""
        request = world.broadcast_from_main(lambda: request)
        if request is None:
            return []
        folder, files = request
        own = dict(sorted(files.items())[world.rank :: world.size])
        return world.gather(find_damage(folder, own))

    def load() -> Checkpoint | None:
        try:
            checkpoint = load_newest(
                run_dir, verify=lambda *request: next(filter(None, share(request)), None)
            )
        finally:
            share(None)
        if checkpoint is not None:
            accept(checkpoint)
            others.extend(checkpoint.state.pop(OTHER_RANKS, []))
        return checkpoint

    while not world.is_main and share(None):
        pass
    checkpoint = world.broadcast_from_main(load)
    if checkpoint is not None:
        own = world.scatter_from_main([{}, *others, *[{}] * world.size])
        checkpoint.state.update(own)
    return checkpoint


# Checks before resuming from a checkpoint: same model, same data, same kind of optimizer.


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

    def require_shared_folder(self) -> None:
        """Raise if a rank has a run folder of its own, in which the other shards would be missing.

        Raises:
            StorageError: A rank does not see what rank 0 writes, or rank 0 cannot write.
        """
        if self._ranks is None:
            return
        folder = self._run_dir / CHECKPOINT_FOLDER
        with ExitStack() as stack:

            def probe() -> str:
                folder.mkdir(parents=True, exist_ok=True)
                # A killed run leaves it to `remove_unfinished`.
                made = TemporaryDirectory(prefix=".incomplete-", dir=folder)
                return Path(stack.enter_context(made)).name

            name = self._from_main(probe)
            seen = self._world.gather((folder / name).is_dir(), self._ranks)
        if blind := [rank for rank, sees in enumerate(seen) if not sees]:
            raise StorageError(
                f"the run folder {self._run_dir} of rank {blind[0]} is not that of rank 0; put it "
                "on a file system that all nodes share"
            )

    def found(self, folder: Path, step: int) -> None:
        """Record the checkpoint that the run resumes from."""
        self.newest, self.step = folder, step

    def save(
        self, step: int, groups: Groups, *, state: Mapping[str, Any], own: Mapping[str, Any]
    ) -> None:
        """Save `step`, unless it is saved; on several ranks, return before it is written."""
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
