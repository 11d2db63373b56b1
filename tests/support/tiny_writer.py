"""Models of both architectures that write short captions of different lengths."""

import dataclasses

import torch
from torch import Tensor

from coca.model.captioner import Captioner
from coca.model.coca import CoCa
from coca.model.openclip.openclip import OpenCLIP
from tiny import sharpened, tiny_config
from tiny_openclip import tiny_openclip_config
from tiny_seed import seed_weights

ARCHITECTURES = ("coca", "openclip")
EOS_BIAS = {"coca": 1.5, "openclip": 0.0}
"""Makes the captions of these very weights end sometimes early, sometimes late, sometimes never."""


def writer(architecture: str, *, vocabulary: int = 20) -> Captioner:
    """Random weights in evaluation mode.

    Args:
        architecture: One of `ARCHITECTURES`.
        vocabulary: Number of tokens, special ones included.
    """
    seed_weights()
    model: CoCa | OpenCLIP
    if architecture == "coca":
        config = tiny_config()
        text = dataclasses.replace(config.text, vocab_size=vocabulary)
        model = sharpened(CoCa(dataclasses.replace(config, text=text)))
    else:
        peer = tiny_openclip_config()
        model = sharpened(
            OpenCLIP(
                dataclasses.replace(
                    peer,
                    text=dataclasses.replace(
                        peer.text,
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


def image_tokens(model: Captioner, count: int = 3) -> Tensor:
    with torch.inference_mode():
        return model.image_tokens(random_images(count))
