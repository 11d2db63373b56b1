"""OpenCLIP's own CoCa at tiny size, with every weight drawn, and the same model here."""

from typing import Any

import torch
from open_clip.coca_model import CoCa as Peer
from torch import Tensor

from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig, from_open_clip
from coca.model.openclip.openclip_weights import convert_state_dict
from tiny_seed import weights_generator

CONTEXT, VOCABULARY = 12, 60
BOS, EOS = 58, 59


def peer_config(*, image_width: int = 48) -> dict[str, Any]:
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 32, "heads": 4}
    return {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 16,
            "layers": 2,
            "width": image_width,
            "head_width": 16,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_queries": 7,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**text, "layers": 2, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "layers": 2},
    }


def peer(*, image_width: int = 48, seed: int = 0) -> Peer:
    """In evaluation mode, with weights large enough for a broken law to show."""
    return drawn(Peer(**peer_config(image_width=image_width)).eval(), seed=seed)


def drawn(model: Peer, *, seed: int = 0) -> Peer:
    generator = weights_generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            # The peer leaves the decoder's `text_projection` uninitialised: nothing is kept.
            values = spread * torch.randn(parameter.shape, generator=generator)
            is_gain = ".ln_" in name and name.endswith("weight")
            parameter.copy_(values + 1 if is_gain else values)
        model.logit_scale.fill_(2.5)
    return model


def ours_of(model: Peer, *, image_width: int = 48) -> OpenCLIP:
    """The same weights under our names."""
    config = tiny_openclip_config(image_width=image_width)
    ours = OpenCLIP(config).eval()
    ours.load_state_dict(convert_state_dict(model.state_dict(), config))
    return ours


def tiny_openclip_config(*, image_width: int = 48) -> OpenCLIPConfig:
    return from_open_clip(peer_config(image_width=image_width))


def caption_rows(*lengths: int, seed: int = 0, zeros: bool = False) -> Tensor:
    """Captions of these lengths, padded to the whole context; `zeros`: some tokens have id 0."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.zeros(len(lengths), CONTEXT, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        words = torch.randint(1, BOS, (length,), generator=generator)
        if zeros:
            words[torch.rand(length, generator=generator) < 0.3] = 0
        row[:length] = words
        row[0], row[length - 1] = BOS, EOS
    return rows
