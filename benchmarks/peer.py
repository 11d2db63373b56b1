"""OpenCLIP model and inputs of the benchmarks; runs in the peer's own environment as well."""

from typing import Any

import torch
from torch import Tensor, nn

CONTEXT, VOCAB_SIZE, BOS, EOS = 76, 49_408, 49_406, 49_407
"""Of coca_ViT-B-32."""

_SMALL_TEXT = {"context_length": CONTEXT, "vocab_size": 8_000, "width": 192, "heads": 3}
SMALL: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 16,
        "width": 192,
        "layers": 4,
        "head_width": 64,
        "attentional_pool": True,
        "attn_pooler_queries": 256,
        "attn_pooler_heads": 3,
        "output_tokens": True,
    },
    "text_cfg": {**_SMALL_TEXT, "layers": 2, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**_SMALL_TEXT, "layers": 2},
}
"""A model of the size that is in this package, in OpenCLIP's architecture and vocabulary."""


def noise_images(batch: int) -> Tensor:
    """Generate the same noise in each process."""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def captions(batch: int, seed: int = 0) -> Tensor:
    """Generate random padded captions, 12 tokens on average: log-normal, 5 to 60."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.exp(2.37 + 0.45 * torch.randn(batch, generator=generator)).round()
    tokens = torch.zeros(batch, CONTEXT, dtype=torch.int64)
    for row, length in zip(tokens, lengths.clamp(5, 60).int().tolist(), strict=True):
        row[:length] = torch.randint(1, BOS, (length,), generator=generator)
        row[0], row[length - 1] = BOS, EOS
    return tokens


def peer_model(*, small: bool = False) -> Any:
    """Build OpenCLIP's coca_ViT-B-32, or `SMALL`, with the same random weights in each process."""
    import open_clip

    torch.manual_seed(0)
    name = "coca_ViT-B-32"
    model: Any = open_clip.coca_model.CoCa(**SMALL) if small else open_clip.create_model(name)
    # 3.3.0 leaves this weight uninitialised.
    projection = model.text_decoder.text_projection
    nn.init.normal_(projection, std=len(projection) ** -0.5)
    return model
