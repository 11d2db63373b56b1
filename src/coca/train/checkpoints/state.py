"""State of a run as tensors and JSON values, for checkpoints.

Optimizer state is keyed by parameter name and not by order, so that a checkpoint does not depend on
parameter groups. If a model is sharded (DTensor), each rank saves its shards, and restores them
from full tensors.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.optim import Optimizer

from coca.core.errors import ModelError


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, as views; tied tensors under one name."""
    tensors: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def gather_full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather full tensors from shards, on the CPU; every rank must call it."""
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def restore_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore every parameter and buffer from the result of `model_tensors`."""
    own = model_tensors(model)
    if different := sorted(own.keys() ^ tensors.keys()):
        raise ModelError(
            f"the checkpoint is of another model: {len(different)} tensors exist in only one of "
            f"the two, such as {different[0]}"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ModelError(
                f"the checkpoint is of another model: {name} has shape "
                f"{tuple(tensors[name].shape)} there and {tuple(tensor.shape)} here"
            )
    for name, tensor in own.items():
        tensor.copy_(distribute_like(tensors[name], tensor))


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
    model: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    """Restore the optimizer from the result of `optimizer_state`."""
    packed = optimizer.state_dict()
    index = {
        parameter: number
        for group, numbers in zip(optimizer.param_groups, packed["param_groups"], strict=True)
        for parameter, number in zip(group["params"], numbers["params"], strict=True)
    }
    updated = {name: p for name, p in model.named_parameters() if p in index}
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **values}.items():
        kind, _, name = key.partition("/")
        if name not in updated:
            raise ModelError(
                f"the checkpoint's optimizer updates {name}, which is frozen or absent here"
            )
        parameter = updated[name]
        if isinstance(value, Tensor):
            value = distribute_like(value, parameter)
        state.setdefault(index[parameter], {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": packed["param_groups"]})


def distribute_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Shard a full tensor like `parameter`, if that is a DTensor."""
    if not isinstance(parameter, DTensor) or whole.ndim == 0:
        return whole
    # A moment of another shape than its parameter, such as a row of means, is replicated.
    replicated = [Replicate() for _ in parameter.placements]
    placements = parameter.placements if whole.shape == parameter.shape else replicated
    on_device = whole.to(parameter.device)
    # Every rank has the full tensor, so that nothing is sent.
    return distribute_tensor(on_device, parameter.device_mesh, placements, src_data_rank=None)


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
