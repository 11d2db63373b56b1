"""Products with weights that learn no more, laid out in the order in which a CPU reads them.

A CPU multiplies blocks, and before each product it first puts the weights into their order. For a
few rows, such as the newest words of captions, that takes longer than the product. A second copy of
the weights, laid out once by oneDNN, saves it. Two cores of an AMD EPYC, matrices of 512 x 2,048,
GFLOP/s as they come and laid out:

    rows          8          32        1,600
    fp32      36, 103     85, 168    193, 223
    bf16     167, 291    309, 400    375, 432

Dimensions: D and N the widths in front and behind.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_ATTRIBUTE = "prepack"


class Linear(nn.Linear):
    """A linear layer that uses laid out weights where there are some."""

    def forward(
        self, inputs: Float[Tensor, "*B D"], bias: Float[Tensor, " N"] | None = None
    ) -> Float[Tensor, "*B N"]:
        """Gives W x + b; `bias` takes the place of the layer's own."""
        return linear(inputs, self.weight, self.bias if bias is None else bias)


def linear(
    inputs: Float[Tensor, "*B D"], weight: Float[Tensor, "N D"], bias: Tensor | None = None
) -> Float[Tensor, "*B N"]:
    """As `F.linear`, by the laid out copy of the weight if it has one that fits."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(inputs, weight, bias)
    copy: _Copy | None = getattr(weight, _ATTRIBUTE, None)
    if copy is None:
        return F.linear(inputs, weight, bias)
    if not copy.is_current(weight):
        _drop(weight)
        return F.linear(inputs, weight, bias)
    if not copy.suits(inputs):
        return F.linear(inputs, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(inputs, copy.blocks, bias, "none", [], "")


def prepack_weights(model: nn.Module) -> None:
    """Gives the weights of all linear layers, and of the vocabulary, their laid out copies.

    It takes the memory of the weights once more. Nothing happens to weights that no CPU holds, or
    in a precision that it cannot lay out. A copy whose weight changes afterwards is dropped, also
    where the change goes through `weight.data`. Only memory that is written past torch, such as by
    a NumPy view of the weight, changes unseen; call this again after it.

    Do not call it on a model that is going to train: passes without gradients would use the copies
    until the first update, and give other last bits than a resumed run, which has none.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, Linear)]
    # The vocabulary's may be that of an embedding, or of a layer that is among them.
    vocabulary = getattr(model, "vocabulary_weight", None)
    if vocabulary is not None and all(vocabulary is not weight for weight in weights):
        weights.append(vocabulary)
    for weight in weights:
        _prepack(weight)


@dataclass(frozen=True)
class _Copy:
    """A laid out weight, and what tells whether the plain one is still the same."""

    blocks: Tensor
    version: int
    plain: Tensor
    """Shares the weight's memory, and so keeps anything else from getting its address."""

    def is_current(self, weight: Tensor) -> bool:
        return weight._version == self.version and weight.data_ptr() == self.plain.data_ptr()

    def suits(self, inputs: Tensor) -> bool:
        return (
            inputs.dtype == self.blocks.dtype
            and inputs.numel() > 0
            and not torch.is_autocast_enabled("cpu")
        )


class PrepackedParameter(nn.Parameter):
    """A weight with a laid out copy, which access to `.data` drops.

    Torch counts the changes of a tensor (`_version`), but not those through `.data`.
    """

    @property
    def data(self) -> Tensor:
        """As of any tensor; the copy is dropped, since the caller may write."""
        _drop(self)
        return self.data

    @data.setter
    def data(self, other: Tensor) -> None:
        _drop(self)
        self.data = other

    # The order of a copy is this process's own: what is pickled or copied goes without.

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(self.detach(), self.requires_grad).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        return nn.Parameter(self.detach().clone(), self.requires_grad)


def _prepack(weight: Tensor) -> None:
    own = type(weight) in (nn.Parameter, PrepackedParameter) and not weight.is_inference()
    if own and weight.device.type == "cpu" and _can_prepack(weight.dtype):
        plain = weight.detach()
        setattr(weight, _ATTRIBUTE, _Copy(_blocks(plain), weight._version, plain))
        weight.__class__ = PrepackedParameter


def _drop(weight: Tensor) -> None:
    """Makes a plain parameter of it again."""
    weight.__dict__.pop(_ATTRIBUTE, None)
    weight.__class__ = nn.Parameter


def _blocks(weight: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight, None)


@cache
def _can_prepack(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor do it, and rightly."""
    # These operators are what PyTorch's own compiler lays weights out by.
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    weight, inputs = torch.eye(16, dtype=dtype), torch.arange(32, dtype=dtype).view(2, 16)
    try:
        found = torch.ops.mkldnn._linear_pointwise(
            inputs, _blocks(weight), inputs[1], "none", [], ""
        )
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(found, inputs + inputs[1])
