"""An accelerator that is only pretended: it counts the reads for which the host would wait."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from coca.data.batch import Batch
from coca.train.trainer import Trainer

COPIES = {Tensor.cpu, Tensor.tolist, Tensor.numpy}
"""Reads that torch does not dispatch for a tensor on the CPU."""
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "is_nonzero"}
"""Operations whose result, or its shape, depends on values."""


class PretendedDevice:
    """Within its block, weights, images and all that is computed from them are on a device."""

    def __init__(self, trainer: Trainer[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: Counter[str] = Counter()
        """Number of waits by the operation that waited."""
        self._tensors = WeakTensorKeyDictionary()
        self._stack = ExitStack()
        model = trainer.model
        self.add([*model.parameters(), *model.buffers()])
        move = Batch.to

        def to(batch: Batch, device: torch.device) -> Batch:
            # A copy, since those of the host stay where they are.
            moved = move(batch, device)
            moved = dataclasses.replace(moved, images=moved.images.clone())
            self.add([moved.images])
            return moved

        monkeypatch.setattr(Batch, "to", to)

    def __enter__(self) -> "PretendedDevice":
        self._stack.enter_context(_Copies(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, values: Any) -> None:
        """Put all tensors in a structure of values on the device."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self._tensors[value] = True

    def has(self, values: Any) -> bool:
        """Whether any tensor in a structure of values is on the device."""
        return any(isinstance(it, Tensor) and it in self._tensors for it in tree_leaves(values))


class _Copies(TorchFunctionMode):
    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in COPIES or not self.device.has(args[0]):
            return func(*args, **(kwargs or {}))
        self.device.waits[func.__name__] += 1
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        on_device = self.device.has((args, kwargs))
        name = func._schema.name.removeprefix("aten::")
        by_mask = name == "index" and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if on_device and (by_mask or name in READS):
            self.device.waits[name] += 1
        result = func(*args, **(kwargs or {}))
        if on_device:
            self.device.add(result)
        return result
