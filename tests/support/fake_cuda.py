"""A CUDA device that is only pretended: real numbers on the CPU behind tensors that name `cuda:0`.

Torch's own `FakeTensorMode` has shapes and no values, but a caption's packing and generation read
values. So tensors have their numbers, Python code sees a CUDA device and takes its branches, and an
operation that mixes devices is refused as CUDA would refuse it. Works on any build of torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
SEEN_IN_C = torch.device("meta")
"""What torch's code in C++ takes it for, which would look for a driver of CUDA."""
PRETENDED = (DEVICE.type, SEEN_IN_C.type)
COPIES = {"to", "_to_copy"}
MAY_MIX = {*COPIES, "copy_", "index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that take tensors of the CPU and of CUDA: copies, and positions to read."""


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"}
"""Operations whose result, or its shape, the host reads from the device."""
_waits: list[str] = []


@contextmanager
def waits(device: torch.device) -> Iterator[list[str]]:
    """The operations within the block for which the host waits for a device; CUDA raises at one."""
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("error")
    _waits.clear()
    try:
        yield _waits
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")


class Pretended(Tensor):
    """A tensor of the pretended device."""

    held: Tensor
    """Its numbers."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        tensor: Pretended = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=SEEN_IN_C,
            dispatch_device=True,
        )
        tensor.held = held
        return tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    def tolist(self) -> Any:
        _waits.append("tolist")
        return self.held.tolist()

    # A list or number would become a tensor of `SEEN_IN_C`, and be lost.
    def __getitem__(self, positions: Any) -> Tensor:
        return super().__getitem__(_as_tensors(positions))

    def __setitem__(self, positions: Any, value: Any) -> None:
        super().__setitem__(_as_tensors(positions), torch.as_tensor(value))

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.held})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # In the place of FakeTensorMode torch does not look for a real CUDA.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended_cuda() -> Iterator[torch.device]:
    """Within, `cuda:0` can be used; its random generator is the CPU's."""
    with pytest.MonkeyPatch.context() as patch, _Mode():
        patch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
        patch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
        # What inference mode gives cannot be wrapped; it changes no number.
        patch.setattr(torch._C, "_InferenceMode", lambda mode: torch.no_grad())
        # As in `FakeTensorMode`: `torch.tensor(..., device=...)` is made on the CPU, then moved.
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield DEVICE
        finally:
            torch._C._set_only_lift_cpu_tensors(False)


class DeviceCase(NamedTuple):
    """A device to compare with the CPU."""

    device: torch.device
    tolerance: float
    """Largest difference, relative to the length of all numbers compared."""


DEVICE_KINDS = (
    "pretended",
    pytest.param(
        "real",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here"),
        ],
    ),
)
"""Devices of a test that uses `on_device`."""


@contextmanager
def on_device(kind: str) -> Iterator[DeviceCase]:
    """The pretended device, or a real one without TF32."""
    if kind == "pretended":
        with pretended_cuda() as device:
            # The same kernels, but for branches in Python: fp32 has seven digits.
            yield DeviceCase(device, 1e-6)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        patch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
        # Sums of thousands of fp32 numbers in another order.
        yield DeviceCase(DEVICE, 1e-5)


def on_cpu(tree: Any) -> Any:
    """The same values on the CPU, from any device."""
    return tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, real(tree))


def real(tree: Any) -> Any:
    """The same values on the CPU."""
    return tree_map(_real, tree)


def _real(leaf: Any) -> Any:
    if isinstance(leaf, Pretended):
        return leaf.held
    named = isinstance(leaf, torch.device) and leaf.type in PRETENDED
    return torch.device("cpu") if named else leaf


def _as_tensors(positions: Any) -> Any:
    if isinstance(positions, tuple):
        return tuple(map(_as_tensors, positions))
    return torch.tensor(positions, device=DEVICE) if isinstance(positions, list) else positions


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return SEEN_IN_C
    name = func._opname
    leaves = tree_leaves((args, dict(kwargs)))
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    there = [tensor for tensor in given if isinstance(tensor, Pretended)]
    # A single number of the CPU goes with everything.
    here = [tensor for tensor in given if not isinstance(tensor, Pretended) and tensor.ndim]
    if here and there and name not in MAY_MIX:
        shapes = [(str(tensor.device), tuple(tensor.shape)) for tensor in given]
        raise RuntimeError(f"{func} was given tensors of different devices: {shapes}")
    if name.startswith("index") and here and there and not isinstance(given[0], Pretended):
        raise RuntimeError(f"{func} reads a tensor of the CPU by positions on {DEVICE}")
    wanted = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    masked = name.startswith("index") and any(it.dtype == torch.bool for it in there[1:])
    leaves_device = bool(there) and bool(wanted) and wanted[0].type == "cpu"
    enters_device = bool(here) and not there and bool(wanted) and wanted[0].type in PRETENDED
    copied = name in COPIES and (leaves_device or enters_device) and not kwargs.get("non_blocking")
    if (there and name in WAITING) or masked or copied:
        _waits.append(name)
    result = func(*real(args), **real(dict(kwargs)))
    if not (wanted[0].type in PRETENDED if wanted else there):
        return result
    wrapped = tree_map(lambda leaf: Pretended(leaf) if isinstance(leaf, Tensor) else leaf, result)
    if name in COPIES:
        return wrapped
    return return_and_correct_aliasing(func, args, dict(kwargs), wrapped)
