"""Configuration of OpenCLIP's CoCa, and its conversion from OpenCLIP's own format."""

from collections.abc import Mapping, Set
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError, ModelError
from coca.model.coca_config import HeadConfig, Temperature, TextDecoderConfig
from coca.model.encoders.vit import ViTConfig

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names of OpenCLIP's weights, in order of preference; safetensors cannot contain code."""


class OpenCLIPTextConfig(Config):
    """Configuration of the unimodal and the multimodal text decoder.

    A caption is `[BOS] w1 .. wn [EOS] [PAD] ..`. The class token is a weight and not a token id;
    the decoder appends it.
    """

    vocab_size: PositiveInt = 49_408
    """Tokens in the vocabulary of CLIP's tokenizer."""
    context_length: Annotated[int, Field(ge=3)] = 76
    """Maximum caption length in tokens, with [BOS] and [EOS]."""
    width: PositiveInt = 512
    """Features per token."""
    heads: PositiveInt = 8
    """Attention heads per block."""
    mlp_width: PositiveInt = 2048
    """Hidden features of each MLP."""
    unimodal_layers: PositiveInt = 12
    """Blocks with self-attention over text only."""
    multimodal_layers: PositiveInt = 12
    """Pairs of a self-attention and a cross-attention block; each has an MLP."""
    pad_id: NonNegativeInt = 0
    """Padding after [EOS]. In CLIP's vocabulary it is also a `!` within a word, which OpenCLIP
    treats as padding: it is not a label and usually not visible."""
    bos_id: NonNegativeInt = 49_406
    """First token of each caption."""
    eos_id: NonNegativeInt = 49_407
    """Last token of each caption."""

    @model_validator(mode="after")
    def _check_rules(self) -> "OpenCLIPTextConfig":
        if self.width % self.heads:
            raise ConfigError(f"text: heads {self.heads} do not divide width {self.width}")
        special = (self.pad_id, self.bos_id, self.eos_id)
        if len(set(special)) < 3 or max(special) >= self.vocab_size:
            raise ConfigError(
                f"pad, bos and eos ids must be three different ids below vocab_size "
                f"{self.vocab_size} (got {special})"
            )
        return self

    @property
    def max_text_tokens(self) -> int:
        """Maximum number of text tokens in a caption, without [BOS] and [EOS]."""
        return self.context_length - 2

    @property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Token ids that generation suppresses; they are never labels."""
        return (self.pad_id, self.bos_id)


TextConfig: TypeAlias = TextDecoderConfig | OpenCLIPTextConfig
"""The configuration of the text decoders of either architecture."""


class OpenCLIPConfig(Config):
    """Configuration of OpenCLIP's CoCa; the defaults are `coca_ViT-B-32`."""

    image: ViTConfig = Field(default_factory=lambda: ViTConfig(image_size=224, patch_size=32))
    """The image encoder, which has a class token."""
    text: OpenCLIPTextConfig = Field(default_factory=OpenCLIPTextConfig)
    """The unimodal and the multimodal text decoder."""
    pooler_queries: Annotated[int, Field(ge=2)] = 256
    """Queries of the pooler: the first gives the embedding, the others the decoder's tokens."""
    pooler_heads: PositiveInt = 8
    """Heads of the pooler. OpenCLIP reads them from `vision_cfg` only, so L/14 has 8 as well, and
    not the 12 of its `multimodal_cfg`."""
    embed_dim: PositiveInt = 512
    """Size of the shared embedding, and width of the image tokens."""
    class_mask: Literal["legacy", "corrected"] = "legacy"
    """Attention mask of the caption's class token. `corrected`: all tokens and itself. `legacy`, as
    in the published weights: all tokens and one pad, but not itself. In a caption that fills the
    context, `legacy` includes itself and no pad."""
    initial_temperature: Temperature = 0.07
    """Initial value of the learned temperature of the contrastive loss."""
    head: HeadConfig | None = None
    """Classification head for a downstream task; null: none, as in the published weights."""

    @model_validator(mode="after")
    def _check_rules(self) -> "OpenCLIPConfig":
        if self.head is not None:
            self.head.check_width(image=self.image.width, text=self.text.width)
        if self.embed_dim % self.pooler_heads:
            raise ConfigError(
                f"pooler_heads {self.pooler_heads} do not divide embed_dim {self.embed_dim}"
            )
        if self.text.width != self.embed_dim:
            raise ConfigError(
                f"text.width {self.text.width} must equal embed_dim {self.embed_dim}: OpenCLIP's "
                "decoder norms the image tokens at its own width"
            )
        return self

    @classmethod
    def presets(cls) -> dict[str, "OpenCLIPConfig"]:
        """Return the two sizes with published weights."""
        return {
            "openclip_vit_b_32": cls(),
            "openclip_vit_l_14": cls(
                image=ViTConfig(
                    image_size=224, patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096
                ),
                text=OpenCLIPTextConfig(width=768, heads=12, mlp_width=3072),
                embed_dim=768,
            ),
        }


# Settings of the sections of OpenCLIP's model files, some without effect.
_SETTINGS: Mapping[str, Set[str]] = {
    "vision_cfg": {
        *("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"),
        *("attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "output_tokens"),
    },
    "text_cfg": {
        *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
        *("embed_cls", "correct_cls_mask", "output_tokens"),
    },
    "multimodal_cfg": {
        *("width", "heads", "layers", "mlp_ratio"),
        *("context_length", "vocab_size", "dim_head", "n_queries", "attn_pooler_heads"),
    },
}


def from_open_clip(content: Mapping[str, Any]) -> OpenCLIPConfig:
    """Convert `model_cfg` of an `open_clip_config.json` or of OpenCLIP's model files."""
    if not all(isinstance(content.get(name), Mapping) for name in _SETTINGS):
        raise ModelError(
            f"this is not OpenCLIP's CoCa, which has the sections {', '.join(_SETTINGS)}"
        )
    vision, text, multimodal = (content[name] for name in _SETTINGS)
    problems = _unknown_parts(content)
    text_width, width = text.get("width", 512), vision.get("width", 768)
    for name, default in (("width", 512), ("heads", 8), ("mlp_ratio", 4.0)):
        one, other = text.get(name, default), multimodal.get(name, default)
        if one != other:
            problems.append(f"{name} is {one} in text_cfg and {other} in multimodal_cfg")
    if problems:
        raise ModelError(f"this CoCa of OpenCLIP cannot be built here: {'; '.join(problems)}")
    vocab_size = text.get("vocab_size", 49_408)
    try:
        return OpenCLIPConfig(
            image=ViTConfig(
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
    problems = ["quick_gelu is on"] if content.get("quick_gelu") else []
    for section, name in (("vision_cfg", "attentional_pool"), ("text_cfg", "embed_cls")):
        if (value := content[section].get(name)) is not True:
            problems.append(f"{section}.{name} is {value!r}, only True exists")
    return problems + [
        f"{section}.{name} is unknown"
        for section, known in _SETTINGS.items()
        for name in sorted(content[section].keys() - known)
    ]
