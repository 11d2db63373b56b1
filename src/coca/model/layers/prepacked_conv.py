"""Convolution, batch norm and ReLU6 as one operation for CPU inference.

In evaluation mode, a batch norm is a factor and a shift of each channel. Both are folded into the
weights of the convolution before it, and oneDNN applies the activation while the result is in its
cache. Processor time of EfficientNet-Lite0 for an image of 224 x 224, one core of an AMD EPYC:
24 -> 15 ms alone, 17 -> 13 ms in a batch of 32.

Dimensions: B batch, C input and D output channels, H, W and h, w sides of the maps.
"""

from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class FusableConv(nn.Conv2d):
    """A convolution without bias that `conv_norm` fuses with its batch norm after `fuse`."""

    is_fused = False

    def pad(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C height width"]:
        """Pad the input as far as `padding` does not; no padding here."""
        return images

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return super().forward(self.pad(images))


def fuse_convs(model: nn.Module) -> None:
    """Let `conv_norm` fuse the convolutions of a model on a CPU; not for training.

    The fused copies take as much memory as the weights. A copy is made at first use, and again
    after its weights change, except by writes that torch does not count, such as through `.data`.
    """
    for module in model.modules():
        if isinstance(module, FusableConv):
            module.is_fused = True
            _COPIES.pop(module, None)


def conv_norm(
    conv: FusableConv, norm: nn.BatchNorm2d, images: Float[Tensor, "B C H W"], *, relu6: bool
) -> Float[Tensor, "B D h w"]:
    """Compute the convolution, then the batch norm, and ReLU6 if wanted.

    Args:
        conv: The convolution.
        norm: Its batch norm, with affine weights and running statistics.
        images: Input maps.
        relu6: Whether the output is clamped to 0 to 6.
    """
    copy = _fused(conv, norm, images)
    if copy is None:
        found = norm(conv(images))
        return F.relu6(found) if relu6 else found
    padding, stride, dilation = (_pair(it) for it in (conv.padding, conv.stride, conv.dilation))
    return torch.ops.mkldnn._convolution_pointwise(
        *(conv.pad(images), copy.blocks, copy.bias, padding, stride, dilation, conv.groups),
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


def _fused(conv: FusableConv, norm: nn.BatchNorm2d, images: Tensor) -> _FusedCopy | None:
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


def _fold(conv: FusableConv, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold the batch norm in fp32, and reorder the weights for oneDNN."""
    dtype = conv.weight.dtype
    with torch.inference_mode(False), torch.no_grad():
        state = {name: it.detach().float() for name, it in norm.state_dict().items()}
        scale = state["weight"] * (state["running_var"] + norm.eps).rsqrt()
        weight = conv.weight.detach().float() * scale[:, None, None, None]
        bias = state["bias"] - state["running_mean"] * scale
        blocks = torch.ops.mkldnn._reorder_convolution_weight(
            weight.to(dtype).contiguous(memory_format=torch.channels_last),
            *(_pair(it) for it in (conv.padding, conv.stride, conv.dilation)),
            conv.groups,
        )
    return blocks, bias.to(dtype)


def _pair(value: object) -> list[int]:
    assert isinstance(value, tuple)
    return list(value)


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
