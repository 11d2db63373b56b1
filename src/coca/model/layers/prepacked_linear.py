"""Linear layers with prepacked weights for CPU inference.

A CPU kernel multiplies blocks, and reorders the weights before each product. For a few rows, such
as the newest tokens of captions, this takes longer than the product. A second copy of the weights,
reordered once by oneDNN, saves this time. GFLOP/s, plain and prepacked, of matrices of 512 x 2,048
on two cores of an AMD EPYC:

    rows          8          32        1,600
    fp32      36, 103     85, 168    193, 223
    bf16     167, 291    309, 400    375, 432

Dimensions: D input width, N output width.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.layers.prepacked_conv import fuse_convs

_ATTRIBUTE = "prepack"


class Linear(nn.Linear):
    """A linear layer that uses prepacked weights if there are any."""

    def forward(
        self, inputs: Float[Tensor, "*B D"], bias: Float[Tensor, " N"] | None = None
    ) -> Float[Tensor, "*B N"]:
        """Compute W x + b; `bias` replaces the layer's own bias."""
        return linear(inputs, self.weight, self.bias if bias is None else bias)


def linear(
    inputs: Float[Tensor, "*B D"], weight: Float[Tensor, "N D"], bias: Tensor | None = None
) -> Float[Tensor, "*B N"]:
    """Compute `F.linear`, with the prepacked copy of the weight if there is one that fits."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(inputs, weight, bias)
    copy: _PackedWeight | None = getattr(weight, _ATTRIBUTE, None)
    if copy is None:
        return F.linear(inputs, weight, bias)
    if not copy.is_current(weight):
        _drop(weight)
        return F.linear(inputs, weight, bias)
    if not copy.accepts(inputs):
        return F.linear(inputs, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(inputs, copy.blocks, bias, "none", [], "")


def prepack_weights(model: nn.Module) -> None:
    """Prepack the weights of all linear layers and of the vocabulary layer, and fuse convolutions.

    The copies take as much memory as the weights. Weights on other devices, or in a dtype that
    oneDNN cannot prepack, are left as they are. A copy is dropped when its weight changes, also
    through `weight.data`. Writes that bypass torch, such as through a NumPy view of the weight, are
    not detected; call this function again after them.

    Do not call it on a model that is trained afterwards. Passes without gradients would use the
    copies until the first update, and their last bits would differ from those of a resumed run,
    which has no copies.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, Linear)]
    # The vocabulary weight may be that of an embedding, or of a layer in the list.
    vocabulary = getattr(model, "vocabulary_weight", None)
    if vocabulary is not None and all(vocabulary is not weight for weight in weights):
        weights.append(vocabulary)
    for weight in weights:
        _prepack(weight)
    fuse_convs(model)


@dataclass(frozen=True)
class _PackedWeight:
    """A prepacked weight, with the version of the plain weight that it was made from."""

    blocks: Tensor
    version: int
    plain: Tensor
    """Shares the weight's memory, so that no other tensor can get its address."""

    def is_current(self, weight: Tensor) -> bool:
        return weight._version == self.version and weight.data_ptr() == self.plain.data_ptr()

    def accepts(self, inputs: Tensor) -> bool:
        return (
            inputs.dtype == self.blocks.dtype
            and inputs.numel() > 0
            and not torch.is_autocast_enabled("cpu")
        )


class PrepackedParameter(nn.Parameter):
    """A weight with a prepacked copy, which access to `.data` drops.

    Torch counts the changes of a tensor (`_version`), but not those through `.data`.
    """

    @property
    def data(self) -> Tensor:
        """The plain tensor; the copy is dropped, since the caller may write."""
        _drop(self)
        return self.data

    @data.setter
    def data(self, other: Tensor) -> None:
        _drop(self)
        self.data = other

    # The layout of a prepacked copy is valid in this process only, so it is not pickled or copied.

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(self.detach(), self.requires_grad).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        return nn.Parameter(self.detach().clone(), self.requires_grad)


def _prepack(weight: Tensor) -> None:
    own = type(weight) in (nn.Parameter, PrepackedParameter) and not weight.is_inference()
    if own and weight.device.type == "cpu" and _can_prepack(weight.dtype):
        plain = weight.detach()
        setattr(weight, _ATTRIBUTE, _PackedWeight(_reordered(plain), weight._version, plain))
        weight.__class__ = PrepackedParameter


def _drop(weight: Tensor) -> None:
    """Drop the prepacked copy and restore the class of a plain parameter."""
    weight.__dict__.pop(_ATTRIBUTE, None)
    weight.__class__ = nn.Parameter


def _reordered(weight: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight, None)


@cache
def _can_prepack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU prepack weights, with correct results."""
    # PyTorch's own compiler prepacks weights by these operators.
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    weight, inputs = torch.eye(16, dtype=dtype), torch.arange(32, dtype=dtype).view(2, 16)
    try:
        found = torch.ops.mkldnn._linear_pointwise(
            inputs, _reordered(weight), inputs[1], "none", [], ""
        )
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(found, inputs + inputs[1])
