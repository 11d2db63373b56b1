"""The shape of OpenCLIP's CoCa, and its translation from and to OpenCLIP's own configuration."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from coca.core.errors import ConfigError, ModelError
from coca.model.config import HeadConfig, ImageEncoderConfig


@dataclass(frozen=True, kw_only=True)
class OpenCLIPTextConfig:
    """Both halves of the text decoder.

    A caption is `[BOS] w1 .. wn [EOS] [PAD] ..`; the class token is no word but a weight, and is
    appended inside.
    """

    vocab_size: int = 49_408
    """Words of CLIP's tokenizer."""
    context_length: int = 76
    """Longest caption in tokens, with [BOS] and [EOS]."""
    width: int = 512
    """Features per token."""
    heads: int = 8
    """Attention heads per block."""
    mlp_width: int = 2048
    """Hidden features of each MLP."""
    unimodal_layers: int = 12
    """Blocks that read text only."""
    multimodal_layers: int = 12
    """Pairs of blocks: one reads text, one the image; each has an MLP."""
    pad_id: int = 0
    """Fills a batch behind [EOS]. In CLIP's vocabulary it is also a `!` within a word, which
    OpenCLIP takes for a pad: it is neither predicted nor, as a rule, seen."""
    bos_id: int = 49_406
    """Begins each caption."""
    eos_id: int = 49_407
    """Ends each caption."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp_width", "unimodal_layers", "multimodal_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"text.{name} must be at least 1 (got {getattr(self, name)})")
        if self.context_length < 3:
            raise ConfigError(
                f"text.context_length must be at least 3 to hold [BOS], a word and [EOS] "
                f"(got {self.context_length})"
            )
        if self.width % self.heads:
            raise ConfigError(f"text: heads {self.heads} do not divide width {self.width}")
        special = (self.pad_id, self.bos_id, self.eos_id)
        if len(set(special)) < 3 or min(special) < 0 or max(special) >= self.vocab_size:
            raise ConfigError(
                f"pad, bos and eos ids must be three different ids below vocab_size "
                f"{self.vocab_size} (got {special})"
            )

    @property
    def max_text_tokens(self) -> int:
        """Words that a caption has room for beside [BOS] and [EOS]."""
        return self.context_length - 2

    @property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Ids that never follow a word: no loss ever asked for them."""
        return (self.pad_id, self.bos_id)


@dataclass(frozen=True, kw_only=True)
class OpenCLIPConfig:
    """A whole model; the defaults are `coca_ViT-B-32`."""

    image: ImageEncoderConfig = field(
        default_factory=lambda: ImageEncoderConfig(image_size=224, patch_size=32)
    )
    """The image encoder, which has a class token."""
    text: OpenCLIPTextConfig = field(default_factory=OpenCLIPTextConfig)
    """Both text decoders."""
    pooler_queries: int = 256
    """Queries of the one pooler: the first gives the embedding, the others the decoder's image."""
    pooler_heads: int = 8
    """Heads of the pooler. OpenCLIP takes them from its `vision_cfg` alone, so L/14 has 8 as well,
    not the 12 that its `multimodal_cfg` says."""
    embed_dim: int = 512
    """Size of the shared embedding, and width of the image tokens."""
    class_mask: Literal["legacy", "corrected"] = "legacy"
    """What the caption's class token sees. `corrected`: all words and itself. `legacy`, as the
    published weights were trained: all words and one pad, but not itself; in a caption that fills
    the context itself and no pad."""
    initial_temperature: float = 0.07
    """Start of the learned temperature of the contrastive loss."""
    head: HeadConfig | None = None
    """A head for a downstream problem; null: none, as in the published weights."""

    def __post_init__(self) -> None:
        if self.head is not None:
            self.head.check_width(image=self.image.width, words=self.text.width)
        if self.pooler_queries < 2:
            raise ConfigError(
                f"pooler_queries must be at least 2, one of them for the embedding "
                f"(got {self.pooler_queries})"
            )
        if self.pooler_heads < 1 or self.embed_dim % self.pooler_heads:
            raise ConfigError(
                f"pooler_heads {self.pooler_heads} do not divide embed_dim {self.embed_dim}"
            )
        if self.text.width != self.embed_dim:
            raise ConfigError(
                f"text.width {self.text.width} must equal embed_dim {self.embed_dim}: OpenCLIP's "
                "decoder norms the image tokens at its own width"
            )
        if not 0.01 <= self.initial_temperature <= 1:
            raise ConfigError(
                f"initial_temperature must lie in 0.01 to 1, the range it is clamped to "
                f"(got {self.initial_temperature})"
            )

    @classmethod
    def presets(cls) -> dict[str, "OpenCLIPConfig"]:
        """Gives the two sizes that weights were published for."""
        return {
            "openclip_vit_b_32": cls(),
            "openclip_vit_l_14": cls(
                image=ImageEncoderConfig(
                    image_size=224, patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096
                ),
                text=OpenCLIPTextConfig(width=768, heads=12, mlp_width=3072),
                embed_dim=768,
            ),
        }


# What OpenCLIP's sections say that this model reads ...
_READ: Mapping[str, Set[str]] = {
    "vision_cfg": {
        *("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"),
        *("attn_pooler_queries", "attn_pooler_heads"),
    },
    "text_cfg": {
        *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
        "correct_cls_mask",
    },
    "multimodal_cfg": {"width", "heads", "layers", "mlp_ratio"},
}
# ... what it has in one form only ...
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "vision_cfg": {"attentional_pool": True, "pos_embed_type": "learnable", "pool_type": "tok"},
    "text_cfg": {"embed_cls": True, "proj_type": "linear"},
    "multimodal_cfg": {},
}
# ... and what changes nothing in a CoCa. Any other setting must be off.
_IGNORED = {
    *("output_tokens", "patch_dropout", "final_ln_after_pool", "timm_pool", "timm_proj", "pad_id"),
    *("eos_id", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "hf_model_pretrained"),
    *("hf_proj_type", "hf_pooler_type", "n_queries", "dim_head", "context_length", "vocab_size"),
    "attn_pooler_heads",
}
# Settings of a model here that conversion leaves out.
_NOT_CONVERTED = ("head", "initial_temperature")


def from_open_clip(content: Mapping[str, Any]) -> OpenCLIPConfig:
    """Reads `model_cfg` of an `open_clip_config.json`, or one of OpenCLIP's model files.

    Raises:
        ModelError: It describes no CoCa, or one with parts that do not exist here.
    """
    if not all(isinstance(content.get(name), Mapping) for name in _READ):
        raise ModelError(f"this is no CoCa of OpenCLIP, which has the sections {', '.join(_READ)}")
    vision, text, multimodal = (content[name] for name in _READ)
    faults = _unknown_parts(content)
    text_width, width = text.get("width", 512), vision.get("width", 768)
    for name, default in (("width", 512), ("heads", 8), ("mlp_ratio", 4.0)):
        one, other = text.get(name, default), multimodal.get(name, default)
        if one != other:
            faults.append(f"{name} is {one} in text_cfg and {other} in multimodal_cfg")
    if faults:
        raise ModelError(f"this CoCa of OpenCLIP cannot be built here: {'; '.join(faults)}")
    vocab_size = text.get("vocab_size", 49_408)
    try:
        return OpenCLIPConfig(
            image=ImageEncoderConfig(
                image_size=vision.get("image_size", 224),
                patch_size=vision.get("patch_size", 16),
                width=width,
                layers=vision.get("layers", 12),
                heads=width // vision.get("head_width", 64),
                mlp_width=int(width * vision.get("mlp_ratio", 4.0)),
            ),
            text=OpenCLIPTextConfig(
                vocab_size=vocab_size,
                context_length=text.get("context_length", 77),
                width=text_width,
                heads=text.get("heads", 8),
                mlp_width=int(text_width * text.get("mlp_ratio", 4.0)),
                unimodal_layers=text.get("layers", 12),
                multimodal_layers=multimodal.get("layers", 12),
                # CLIP's tokenizer puts its two special tokens last.
                bos_id=vocab_size - 2,
                eos_id=vocab_size - 1,
            ),
            pooler_queries=vision.get("attn_pooler_queries", 256),
            pooler_heads=vision.get("attn_pooler_heads", 8),
            embed_dim=content.get("embed_dim", text_width),
            class_mask="corrected" if text.get("correct_cls_mask", False) else "legacy",
        )
    except ConfigError as error:
        raise ModelError(f"this CoCa of OpenCLIP cannot be built here: {error}") from None


def _unknown_parts(content: Mapping[str, Any]) -> list[str]:
    faults = ["quick_gelu is on"] if content.get("quick_gelu") else []
    for section, fixed in _FIXED.items():
        given = {name: None for name in fixed if fixed[name] is True} | dict(content[section])
        for name, value in given.items():
            if name in fixed:
                if value != fixed[name]:
                    faults.append(f"{section}.{name} is {value!r}, only {fixed[name]!r} exists")
            elif value and name not in _READ[section] | _IGNORED:
                faults.append(f"{section}.{name} is {value!r}, only `off` exists")
    return faults


def to_open_clip(config: OpenCLIPConfig) -> dict[str, Any]:
    """Writes `model_cfg` for OpenCLIP: what `from_open_clip` reads.

    The head is left out, since OpenCLIP has none, and so is the initial temperature: the weights
    hold the learned one.

    Raises:
        ModelError: OpenCLIP's configuration cannot describe this model.
    """
    image, text = config.image, config.text
    if text.mlp_width % text.width or image.channels != 3:
        raise ModelError(
            "OpenCLIP has no such model: its images have 3 channels, and its text MLPs a whole "
            f"multiple of the width (got {image.channels}, {text.mlp_width} and {text.width})"
        )
    shared = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "mlp_ratio": text.mlp_width // text.width,
    }
    # OpenCLIP 3.3.0 refuses a file with this key; without it, it would compute other embeddings.
    mask = {"correct_cls_mask": True} if config.class_mask == "corrected" else {}
    content = {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "width": image.width,
            "layers": image.layers,
            "head_width": image.width // image.heads,
            "mlp_ratio": image.mlp_width / image.width,
            "attentional_pool": True,
            "attn_pooler_queries": config.pooler_queries,
            "attn_pooler_heads": config.pooler_heads,
            "output_tokens": True,
        },
        "text_cfg": {
            **shared,
            "layers": text.unimodal_layers,
            "embed_cls": True,
            "output_tokens": True,
            **mask,
        },
        "multimodal_cfg": {**shared, "layers": text.multimodal_layers},
        "custom_text": True,
    }
    if lost := differences(config, from_open_clip(content)):
        raise ModelError(f"OpenCLIP's configuration cannot hold {lost}")
    return content


def differences(config: OpenCLIPConfig, other: OpenCLIPConfig) -> str:
    """Names the settings, and the values of `config`, in which a converted model differs."""
    pairs = [
        (f"{section}{setting.name}", getattr(own, setting.name), getattr(theirs, setting.name))
        for section, own, theirs in (
            ("image.", config.image, other.image),
            ("text.", config.text, other.text),
            ("", config, other),
        )
        for setting in fields(own)
    ]
    return ", ".join(
        f"{name} {value}"
        for name, value, found in pairs
        if value != found and name not in ("image", "text", *_NOT_CONVERTED)
    )
