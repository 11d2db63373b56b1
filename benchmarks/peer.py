"""What benchmarks beside OpenCLIP share of it; runs in the peer's own environment, too."""

import torch
from torch import Tensor, nn


def pictures(batch: int) -> Tensor:
    """The same noise in each process."""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def peer_model() -> nn.Module:
    """OpenCLIP's coca_ViT-B-32 with the same random weights in each process."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("coca_ViT-B-32")
    # 3.3.0 leaves this weight uninitialised.
    nn.init.normal_(model.text_decoder.text_projection, std=512**-0.5)
    return model
