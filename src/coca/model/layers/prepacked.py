"""Convolutions and linear layers with prepacked weights for CPU inference.

In evaluation mode, a batch norm is a factor and a shift of each channel. Both are folded into the
weights of the convolution before it, and oneDNN applies the activation while the result is in its
cache. Processor time of EfficientNet-Lite0 for an image of 224 x 224, one core of an AMD EPYC:
24 -> 15 ms alone, 17 -> 13 ms in a batch of 32.

A CPU kernel multiplies blocks, and reorders the weights before each product. For a few rows, such
as the newest tokens of captions, this takes longer than the product. A second copy of the weights,
reordered once by oneDNN, saves this time. GFLOP/s, plain and prepacked, of matrices of 512 x 2,048
on two cores of an AMD EPYC:

    rows          8          32        1,600
    fp32      36, 103     85, 168    193, 223
    bf16     167, 291    309, 400    375, 432

Dimensions: B batch, C input and D output channels, H, W and h, w sides of the maps; D input width,
N output width.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.layers.transformer import Linear

# Convolution, batch norm and ReLU6 as one operation for CPU inference.


class SameConv(nn.Conv2d):
    """Convolution without bias, padded as in TensorFlow; `fuse_convs` lets `conv_norm` fuse it.

    With a stride of 2, the sides of the output are half the sides of the input, rounded up. An
    even side is padded by a row more at its end than at its start.
    """

    is_fused = False

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = 0 if stride == 2 else kernel // 2
        super().__init__(
            inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False
        )

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        if self.stride[0] == 2:
            most = self.kernel_size[0] // 2
            height, width = (most - (side + 1) % 2 for side in images.shape[2:])
            images = F.pad(images, (width, most, height, most))
        if self.groups > 1 and images.device.type == "cpu" and torch.is_grad_enabled():
            # The backward pass of depthwise 5 x 5 kernels takes oneDNN 4 times as long in bf16.
            with torch.autocast("cpu", enabled=False):
                return super().forward(images.to(self.weight.dtype))
        return super().forward(images)


def fuse_convs(model: nn.Module) -> None:
    """Let `conv_norm` fuse the convolutions of a model on a CPU; not for training.

    The fused copies take as much memory as the weights. A copy is made at first use, and again
    after its weights change, except by writes that torch does not count, such as through `.data`.
    """
    for module in model.modules():
        if isinstance(module, SameConv):
            module.is_fused = True
            _COPIES.pop(module, None)


def conv_norm(
    conv: SameConv, norm: nn.BatchNorm2d, images: Float[Tensor, "B C H W"], *, relu6: bool
) -> Float[Tensor, "B D h w"]:
    """Compute the convolution, then the batch norm, and ReLU6 if wanted."""
    copy = _fused(conv, norm, images)
    if copy is None:
        found = norm(conv(images))
        return F.relu6(found) if relu6 else found
    if conv.stride[0] == 2:
        # Even sides need no copy of the images: a row and column of zeros in the kernel, which is
        # padded equally at both ends, move it by one. Odd sides are moved back.
        height, width = (side % 2 for side in images.shape[2:])
        images = F.pad(images, (width, 0, height, 0)) if height or width else images
    return torch.ops.mkldnn._convolution_pointwise(
        *(images, copy.blocks, copy.bias, *_geometry(conv)),
        *(("hardtanh", [0.0, 6.0]) if relu6 else ("none", [])),
        "",
    )


@dataclass(frozen=True)
class _FusedCopy:
    """Folded and prepacked weights, and the state of the tensors that they were made from."""

    blocks: Tensor
    bias: Tensor
    state: tuple[tuple[int, int], ...]


# Not attributes: a prepacked layout is valid in this process only, so it is not copied or pickled.
_COPIES: WeakKeyDictionary[nn.Module, _FusedCopy] = WeakKeyDictionary()


def _fused(conv: SameConv, norm: nn.BatchNorm2d, images: Tensor) -> _FusedCopy | None:
    """Return the current copy, or None where the plain operations are needed."""
    if (
        not conv.is_fused
        or norm.training
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or images.device.type != "cpu"
        or images.dtype != conv.weight.dtype
        or not images.numel()
        or not _can_fuse(images.dtype)
    ):
        return None
    # Batch norms count their updates, but torch does not count those of the statistics.
    tensors = (conv.weight, *norm.parameters(), *norm.buffers())
    # Tensors made in inference mode have no version.
    state = tuple((it.data_ptr(), 0 if it.is_inference() else it._version) for it in tensors)
    copy = _COPIES.get(conv)
    if copy is None or copy.state != state:
        copy = _COPIES[conv] = _FusedCopy(*_fold(conv, norm), state)
    return copy


def _fold(conv: SameConv, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold the batch norm in fp32, and reorder the weights for oneDNN."""
    dtype = conv.weight.dtype
    with torch.inference_mode(False), torch.no_grad():
        state = {name: it.detach().float() for name, it in norm.state_dict().items()}
        scale = state["weight"] * (state["running_var"] + norm.eps).rsqrt()
        weight = conv.weight.detach().float() * scale[:, None, None, None]
        bias = state["bias"] - state["running_mean"] * scale
        if conv.stride[0] == 2:
            weight = F.pad(weight, (1, 0, 1, 0))
        blocks = torch.ops.mkldnn._reorder_convolution_weight(
            weight.to(dtype).contiguous(memory_format=torch.channels_last), *_geometry(conv)
        )
    return blocks, bias.to(dtype)


def _geometry(conv: SameConv) -> tuple[list[int], list[int], list[int], int]:
    """Return padding, stride, dilation and groups for oneDNN."""
    return [conv.kernel_size[0] // 2] * 2, list(conv.stride), [1, 1], conv.groups


@cache
def _can_fuse(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU have the operators, with correct results."""
    # PyTorch's own compiler fuses convolutions by these operators.
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    images, weight = torch.ones(1, 4, 3, 3, dtype=dtype), torch.ones(2, 4, 1, 1, dtype=dtype)
    try:
        with torch.inference_mode(False), torch.no_grad():
            blocks = torch.ops.mkldnn._reorder_convolution_weight(weight, [0, 0], [1, 1], [1, 1], 1)
            found = torch.ops.mkldnn._convolution_pointwise(
                *(images, blocks, weight[:, 0, 0, 0], [0, 0], [1, 1], [1, 1], 1),
                *("hardtanh", [0.0, 6.0], ""),
            )
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(found, torch.full((1, 2, 3, 3), 5.0, dtype=dtype))


# Linear layers with prepacked weights for CPU inference.


_ATTRIBUTE = "prepack"


class PrepackedLinear(Linear):
    """A linear layer that uses the prepacked copy of its weight while there is one."""

    def forward(
        self, inputs: Float[Tensor, "*B D"], bias: Float[Tensor, " N"] | None = None
    ) -> Float[Tensor, "*B N"]:
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
    if weight._version != copy.version or weight.data_ptr() != copy.plain.data_ptr():
        _drop(weight)  # The weight changed after it was copied.
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
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    for layer in layers:
        if type(layer) is Linear:
            layer.__class__ = PrepackedLinear
    weights = [layer.weight for layer in layers]
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
        # `module.to` assigns each weight, also where it stays as it is.
        if other is not self:
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
