"""Faster inference of other libraries' models on a CPU: the same modules, other arithmetic.

- Weights of linear layers are prepacked.
- OpenCLIP's blocks multiply queries, keys and values by one prepacked weight, and attend by
  `F.scaled_dot_product_attention`; `nn.MultiheadAttention` writes the matrix of attention to
  memory.
- The branches of timm's FastViT (MobileCLIP) are merged (`openclip_model`), and the weights of
  convolutions have the channels last.

Images and texts per second of processor time, as a multiple of the library's own fp32, on an Intel
Xeon with AMX (`benchmarks/embedding.py models`); vectors in fp32 are equal to 1e-6:

                        images fp32, bf16    texts fp32, bf16
    ViT-B/32            1.1  4.1             4.3  12.8
    ViT-B/16 SigLIP 2   1.2  3.7             1.1   3.8
    MobileCLIP 2 S0     2.0  4.1             1.0   4.0

Dimensions: B batch, L tokens, D width, H heads, E width of a head.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.layers.prepacked import prepack_weights
from coca.model.layers.transformer import Linear


def accelerate(model: nn.Module) -> None:
    """Change the modules of a model in place for inference on a CPU; not for training."""
    # oneDNN's own order, else each convolution reorders its input and its output.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    block: Any
    for block in list(model.modules()):
        # Other libraries have linear layers and one function of torch in place of this module.
        own = type(block).__name__ == "ResidualAttentionBlock" and not hasattr(block, "ln_1_kv")
        if own and block.attn.batch_first:
            block.attn = FusedSelfAttention(block.attn)
    # Subclasses are left alone: their library reads the weights itself.
    for layer in [layer for layer in model.modules() if type(layer) is nn.Linear]:
        layer.__class__ = Linear
    prepack_weights(model)


class FusedSelfAttention(nn.Module):
    """Self-attention with the weights of a `nn.MultiheadAttention`."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = source.num_heads
        self.in_proj = _linear(source.in_proj_weight, source.in_proj_bias)
        self.out_proj = _linear(source.out_proj.weight, source.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "B L D"],
        key: Float[Tensor, "B L D"],
        value: Float[Tensor, "B L D"],
        *,
        need_weights: bool,
        attn_mask: Float[Tensor, "L L"] | None = None,
    ) -> tuple[Float[Tensor, "B L D"], None]:
        """Attend; the arguments and results are those of `nn.MultiheadAttention`."""
        assert query is key is value, "only self-attention has one product for all three"
        assert not need_weights
        joined = self.in_proj(query)
        q, k, v = rearrange(joined, "B L (three H E) -> three B H L E", three=3, H=self.heads)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(rearrange(found, "B H L E -> B L (H E)")), None


def _linear(weight: Any, bias: Any) -> nn.Linear:
    """Wrap existing parameters, without a copy."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer
