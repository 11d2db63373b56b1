"""Initial weights of a model on the meta device, computed one by one, bit for bit as usual.

Building a model draws random numbers in the order of its modules, and needs memory for all weights.
A model on the meta device needs none, so that ranks can shard it first. `WeightsRecorder` notes
how each tensor would have been set, with the state of the random generator before the last draw.
So each tensor is then computed on its own.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_DRAWS = {_aten.normal_.default, _aten.uniform_.default}
_FILLS = {_aten.zero_.default, _aten.fill_.Scalar}
_SCALINGS = {_aten.mul_.Tensor, _aten.div_.Tensor}
_CREATIONS = {_aten.ones.default: 1, _aten.zeros.default: 0}


class _Operation(NamedTuple):
    """An operation in place; a draw has the state of the random generator before it."""

    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    random_state: Tensor | None = None


class DeferredWeights:
    """How the parameters and buffers of a model on the meta device are initialized, by name."""

    def __init__(self, operations: Mapping[str, tuple[_Operation, ...]]) -> None:
        self._operations = operations

    @torch.no_grad()
    def compute(self, name: str, like: Tensor) -> Tensor:
        """Compute a full tensor on the CPU, of the shape and type of `like`.

        The random generator is left as it was.
        """
        tensor = torch.empty(like.shape, dtype=like.dtype)
        with torch.random.fork_rng(devices=[]):
            for operation in self._operations[name]:
                if operation.random_state is not None:
                    torch.set_rng_state(operation.random_state)
                operation.function(tensor, *operation.arguments, **operation.options)
        return tensor


class WeightsRecorder(TorchDispatchMode):
    """Builds models on the meta device within its block, and records their initialization.

    The random generator of the CPU moves on as if the weights were drawn.

    Example:
        >>> with WeightsRecorder() as recorder:
        ...     linear = nn.Linear(2, 3)
        >>> linear.weight.device.type
        'meta'
        >>> recorder.weights_of(linear).compute("weight", linear.weight).shape
        torch.Size([3, 2])
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: dict[int, list[_Operation]] = {}
        # Storages that are freed would leave their number to others.
        self._storages: list[torch.UntypedStorage] = []
        self._stack = ExitStack()

    def __enter__(self) -> "WeightsRecorder":
        self._stack.enter_context(torch.device("meta"))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def weights_of(self, model: nn.Module) -> DeferredWeights:
        """Return the initialization of a model that was built within the block."""
        named = [*model.named_parameters(), *model.named_buffers()]
        return DeferredWeights({name: tuple(self._of(tensor)) for name, tensor in named})

    def _of(self, tensor: Tensor) -> list[_Operation]:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._operations:
            self._storages.append(storage)
        return self._operations.setdefault(storage._cdata, [])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in _CREATIONS:
            tensor = func(*args, **options)
            self._of(tensor)[:] = [_Operation(_aten.fill_.Scalar, (_CREATIONS[func],), {})]
            return tensor
        if func in _DRAWS | _FILLS | _SCALINGS:
            tensor, *arguments = args
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize, "a view"
            operations = self._of(tensor)
            state = torch.get_rng_state() if func in _DRAWS else None
            if func not in _SCALINGS:
                # What was there before is overwritten.
                operations.clear()
            operations.append(_Operation(func, tuple(arguments), options, state))
            if func in _DRAWS:
                drawn = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                func(drawn, *arguments, **options)
            return tensor
        assert not func._schema.is_mutable, f"{func} in place cannot be recorded"
        return func(*args, **options)
