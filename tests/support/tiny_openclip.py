"""OpenCLIP's own CoCa at tiny size, its published files, and models that write captions."""

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa as Peer
from torch import Tensor

from coca.model.coca import CoCa
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig, from_open_clip
from coca.model.openclip.openclip_weights import convert_state_dict
from coca.processing.clip_bpe import ClipTokenizer
from tiny import seed_weights, sharpened, tiny_config, weights_generator

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


def peer(*, image_width: int = 48) -> Peer:
    """In evaluation mode, with weights large enough for a broken law to show."""
    return drawn(Peer(**peer_config(image_width=image_width)).eval())


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


def caption_rows(*lengths: int, zeros: bool = False) -> Tensor:
    """Captions of these lengths, padded to the whole context; `zeros`: some tokens have id 0."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(len(lengths), CONTEXT, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        words = torch.randint(1, BOS, (length,), generator=generator)
        if zeros:
            words[torch.rand(length, generator=generator) < 0.3] = 0
        row[:length] = words
        row[0], row[length - 1] = BOS, EOS
    return rows


WEIGHTS, ABOUT = "open_clip_pytorch_model.bin", "open_clip_config.json"


def tiny_clip_tokenizer() -> ClipTokenizer:
    return ClipTokenizer.from_merges([("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>")])


def model_cfg() -> dict[str, Any]:
    """Heads of 64 features and a pooler of 8 heads, as is assumed without a description."""
    text = {
        "context_length": CONTEXT,
        "vocab_size": tiny_clip_tokenizer().vocab_size,
        "width": 64,
        "heads": 1,
        "layers": 1,
    }
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 16,
            "layers": 1,
            "width": 64,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_queries": 5,
            "attn_pooler_heads": 8,
            "output_tokens": True,
        },
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": text,
    }


def tiny_peer(seed: int = 0) -> Peer:
    return drawn(Peer(**model_cfg()).eval(), seed=seed)


def write_open_clip(
    folder: Path, *, seed: int = 0, about: bool = True, vocabulary: bool = True
) -> Path:
    """A folder with weights and, by default, their description."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tiny_peer(seed).state_dict(), folder / WEIGHTS)
    if about:
        (folder / ABOUT).write_text(json.dumps({"model_cfg": model_cfg()}), encoding="utf-8")
    if vocabulary:
        tiny_clip_tokenizer().save(folder / "tokenizer.json")
    return folder


ARCHITECTURES = ("coca", "openclip")
EOS_BIAS = {"coca": 1.5, "openclip": 0.0}
"""Makes the captions of these very weights end sometimes early, sometimes late, sometimes never."""


def writer(architecture: str, *, vocabulary: int = 20) -> CoCa:
    """Random weights in evaluation mode.

    Args:
        architecture: One of `ARCHITECTURES`.
        vocabulary: Number of tokens, special ones included.
    """
    seed_weights()
    model: CoCa | OpenCLIP
    if architecture == "coca":
        config = tiny_config()
        text = config.text.replace(vocab_size=vocabulary)
        model = sharpened(CoCa(config.replace(text=text)))
    else:
        peer = tiny_openclip_config()
        model = sharpened(
            OpenCLIP(
                peer.replace(
                    text=peer.text.replace(
                        vocab_size=vocabulary,
                        bos_id=vocabulary - 2,
                        eos_id=vocabulary - 1,
                    ),
                )
            )
        )
    with torch.no_grad():
        # The image decides more than the last token.
        for name, parameter in model.named_parameters():
            if "cross_attention.out" in name:
                parameter.mul_(4)
        weight, constant = model.vocabulary_weight, model.multimodal_decoder.norm.bias
        constant.fill_(0.5)
        weight -= weight.mean(dim=1, keepdim=True)
        weight[model.config.text.eos_id] += EOS_BIAS[architecture] / constant.sum()
    return model.eval()


def random_images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def image_tokens(model: CoCa, count: int = 3) -> Tensor:
    with torch.inference_mode():
        return model.image_tokens(random_images(count))
