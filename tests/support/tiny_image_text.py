"""Inputs of all kinds, and image-text models of other libraries with a few random weights."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageOps
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXTS = [
    "",
    " ",
    "a photo of a dog",
    "A PHOTO OF A DOG!",
    "two cats, three birds; one (large) house.",
    "it's 5 o'clock & raining",
    "&lt;b&gt;bold&lt;/b&gt;",
    "snake_case_and-dashes",
    "line\nbreak\tand tab",
    "  spaces   within  ",
    "<end_of_text> <|endoftext|> </s> [PAD]",
    "word " * 200,
    "w" * 500,
    "一只狗在草地上奔跑",
    "犬が草の上を走る",
    "개가 잔디 위를 달린다",
    "собака бежит по траве",
    "ένας σκύλος τρέχει",
    "كلب يجري على العشب",
    "कुत्ता घास पर दौड़ता है",
    "หมาวิ่งบนสนามหญ้า",
    "Ein großer Hund läuft über die Wiese",
    "naïve café Zürich Ærø",
    "e\u0301 and é",
    "🐕",
    "👨‍👩‍👧‍👦 🏳️‍🌈",
    "I ❤️ 🍕🍕🍕",
    "100 % of 3.14 €",
    "\u200bzero\u200bwidth",
    "\uff46\uff55\uff4c\uff4c width",
]
"""Texts of many scripts: empty, long, with emoji and with the names of special tokens."""


def awkward_images() -> list[bytes]:
    """Encode 30 images of all modes and of shapes from a strip to a square."""
    random = np.random.default_rng(7)

    def noise(width: int, height: int, *channels: int) -> ndarray:
        # Smooth, as photos are: resizing white noise would leave only its mean.
        coarse = random.integers(0, 256, (4, 5, *channels), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))

    found: list[bytes] = []

    def keep(image: Image.Image, form: str = "PNG", **options: Any) -> None:
        stream = io.BytesIO()
        image.save(stream, form, **options)
        found.append(stream.getvalue())

    for size in ((40, 40), (33, 17), (17, 45), (64, 64), (150, 31), (8, 8), (3, 60), (1, 1)):
        keep(Image.fromarray(noise(*size, 3)))
    for form in ("JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        keep(Image.fromarray(noise(48, 36, 3)), form)
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        keep(Image.fromarray(noise(50, 34, 3)), "JPEG", exif=exif)
    rgb, gray = Image.fromarray(noise(44, 30, 3)), Image.fromarray(noise(44, 30))
    keep(gray)
    keep(gray.convert("1"))
    keep(gray, "JPEG")
    keep(rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=16))
    keep(rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), transparency=3)
    keep(rgb.convert("CMYK"), "JPEG")
    keep(Image.fromarray(noise(44, 30, 4), "RGBA"))
    keep(Image.merge("LA", (gray, Image.fromarray(noise(44, 30)))))
    keep(Image.fromarray(noise(44, 30).astype(np.uint16) * 257))
    keep(rgb, transparency=tuple(np.asarray(rgb)[0, 0].tolist()))
    return found


def upright_rgb(data: bytes) -> Image.Image:
    """Read an image by Pillow alone: upright, on white, the high byte of 16 bits."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def unit(features: torch.Tensor) -> Float[ndarray, "N E"]:
    return torch.nn.functional.normalize(features.float(), dim=-1).numpy()


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Give every weight a random part, since some start at zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.02)
    return model.eval()


def byte_tokenizer() -> Tokenizer:
    """A tokenizer of bytes that appends an end token, as those of SigLIP do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def _text(**changes: Any) -> dict[str, Any]:
    return {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
        **changes,
    }


def _timm(name: str, **changes: Any) -> dict[str, Any]:
    return {"image_size": 32, "timm_model_name": name, "timm_model_pretrained": False, **changes}


OPENCLIP: Mapping[str, dict[str, Any]] = {
    "clip": {
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": _text(),
    },
    "clip_quick_gelu": {
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": _text(),
    },
    "siglip": {
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": _timm("test_vit", timm_pool="map", timm_proj="none"),
        "text_cfg": _text(
            context_length=16,
            vocab_size=300,
            width=64,
            hf_tokenizer_name="some/tokenizer",
            no_causal_mask=True,
            proj_bias=True,
            pool_type="last",
            tokenizer_kwargs={"clean": "canonicalize"},
        ),
    },
    "convnext": {
        "vision_cfg": _timm("test_convnext", timm_pool="", timm_proj="linear"),
        "text_cfg": _text(),
    },
    "mobileclip": {
        "custom_text": True,
        "vision_cfg": _timm("fastvit_t8", timm_pool="avg", timm_proj=None, image_size=64),
        "text_cfg": _text(no_causal_mask=True),
    },
    "eva": {
        "custom_text": True,
        "vision_cfg": _timm(
            "eva02_tiny_patch14_224", timm_pool="token", timm_proj=None, image_size=224
        ),
        "text_cfg": _text(),
    },
}
"""Architectures of OpenCLIP, small: their `model_cfg` without the size of the embedding."""

EMBED_DIMS = {"siglip": 64, "mobileclip": 768, "eva": 192}
PREPROCESS: Mapping[str, dict[str, Any]] = {
    "siglip": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    "mobileclip": {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"},
}


def write_openclip(folder: Path, family: str = "clip") -> Path:
    """Write a folder of OpenCLIP with random weights, built by open_clip."""
    import open_clip
    import transformers

    config = {"embed_dim": EMBED_DIMS.get(family, 32), **OPENCLIP[family]}
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_cfg": config, "preprocess_cfg": PREPROCESS.get(family, {})}
    (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    if "hf_tokenizer_name" in config["text_cfg"]:
        wrap: Any = transformers.PreTrainedTokenizerFast
        tokenizer = wrap(tokenizer_object=byte_tokenizer(), pad_token="<pad>", eos_token="</s>")
        tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = randomized(open_clip.create_model(f"local-dir:{folder}", load_weights=False))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


TRANSFORMERS = ("clip", "siglip", "siglip2", "chinese_clip", "altclip")
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def write_transformers(folder: Path, family: str = "clip") -> Path:
    """Write a folder of transformers with random weights, built by transformers."""
    import transformers

    library: Any = transformers
    vision = {**_TINY, "image_size": 32, "patch_size": 8}
    text = {**_TINY, "vocab_size": 300, "max_position_embeddings": 24}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    torch.manual_seed(0)
    model: Any
    match family:
        case "clip":
            config = library.CLIPConfig(
                text_config={**text, **ids, "projection_dim": 20},
                vision_config={**vision, "projection_dim": 20},
                projection_dim=20,
            )
            model, images = library.CLIPModel(config), library.CLIPImageProcessor
            options: dict[str, Any] = {
                "size": {"shortest_edge": 32},
                "crop_size": {"height": 32, "width": 32},
            }
        case "siglip":
            config = library.SiglipConfig(
                text_config={**text, **ids, "projection_size": 32}, vision_config=vision
            )
            model, images = library.SiglipModel(config), library.SiglipImageProcessor
            options = {"size": {"height": 32, "width": 32}, "resample": 2}
        case "siglip2":
            config = library.Siglip2Config(
                text_config={**text, **ids, "projection_size": 32},
                vision_config={**_TINY, "patch_size": 16, "num_patches": 256},
            )
            model, images = library.Siglip2Model(config), library.Siglip2ImageProcessor
            # What its processor, which sentence-transformers calls, is fixed to.
            options = {"patch_size": 16, "max_num_patches": 256}
        case "chinese_clip":
            config = library.ChineseCLIPConfig(
                text_config={**text, "pad_token_id": 0},
                vision_config={**vision, "projection_dim": 20},
                projection_dim=20,
            )
            model, images = library.ChineseCLIPModel(config), library.ChineseCLIPImageProcessor
            options = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
        case _:
            config = library.AltCLIPConfig(
                text_config={**text, "pad_token_id": 0, "project_dim": 20},
                vision_config={**vision, "projection_dim": 20},
                projection_dim=20,
            )
            model, images = library.AltCLIPModel(config), library.CLIPImageProcessor
            options = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    randomized(model)
    model.save_pretrained(folder)
    images(**options).save_pretrained(folder)
    tokenizer = library.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(),
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=24,
    )
    tokenizer.save_pretrained(folder)
    return folder
