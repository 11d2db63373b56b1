"""Configuration of a CoCa model, with the sizes of the paper (Table 1) as presets."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from coca.core.config.frozen_config import Config
from coca.model.encoders.encoder import ImageEncoderConfig, require, require_heads
from coca.model.encoders.vit import ViTConfig

Temperature: TypeAlias = Annotated[float, Field(ge=0.01, le=1)]
"""Initial temperature, in the range that the learned temperature is clamped to."""


class TextDecoderConfig(Config):
    """A causal text decoder in two halves; only the multimodal half attends to the image."""

    vocab_size: PositiveInt = 64_000
    """Tokens in the vocabulary, special tokens included."""
    context_length: Annotated[int, Field(ge=4)] = 64
    """Maximum caption length in tokens, with [BOS], [EOS] and [CLS]. The paper leaves it open;
    follow-ups that repeat its recipe use 64."""
    width: PositiveInt = 768
    """Features per token."""
    heads: PositiveInt = 12
    """Attention heads per block."""
    mlp_width: PositiveInt = 3072
    """Hidden features of each MLP."""
    unimodal_layers: PositiveInt = 12
    """Blocks with self-attention over text only."""
    multimodal_layers: PositiveInt = 12
    """Blocks that also attend to the image."""
    tie_embeddings: bool = False
    """Share the input embedding with the output layer. The paper's parameter counts fit untied
    embeddings for Base and Large, and tied embeddings for 2B."""
    pad_id: NonNegativeInt = 0
    """Padding after [CLS]; no real token attends to it."""
    bos_id: NonNegativeInt = 1
    """First token of each caption."""
    eos_id: NonNegativeInt = 2
    """End of the caption; a label of the captioning loss."""
    cls_id: NonNegativeInt = 3
    """Learned token after [EOS]; its unimodal state is the text embedding."""

    @model_validator(mode="after")
    def _check_rules(self) -> "TextDecoderConfig":
        require_heads("text", self.width, self.heads)
        special = (self.pad_id, self.bos_id, self.eos_id, self.cls_id)
        require(
            len(set(special)) == 4 and max(special) < self.vocab_size,
            f"pad, bos, eos and cls ids must be four different ids below vocab_size "
            f"{self.vocab_size} (got {special})",
        )
        return self

    @property
    def max_text_tokens(self) -> int:
        """Maximum number of text tokens in a caption, without [BOS], [EOS] and [CLS]."""
        return self.context_length - 3

    @property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Token ids that generation suppresses."""
        return (self.pad_id, self.bos_id, self.cls_id)


class PoolerConfig(Config):
    """Attentional poolers for the decoder and for the contrastive loss."""

    kind: Literal["cascade", "parallel", "none"] = "cascade"
    """`cascade`: the contrastive query attends to the output of the captioning queries (the paper's
    default). `parallel`: both attend to the encoder's tokens. `none`: the decoder attends to all
    encoder tokens."""
    captioning_queries: PositiveInt = 256
    """Number of image tokens that the decoder attends to; unused with `kind: none`, where the
    decoder attends to all encoder tokens."""
    heads: PositiveInt = 12
    """Attention heads of both poolers."""


class HeadConfig(Config):
    """Classification head for one downstream task (the paper's section 4.2).

    A new attentional pooler with a single query, then a linear layer. It is the same for frozen
    features and for fine-tuning.
    """

    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Class names in the order of the logits: objects, actions or answers."""
    reads: Literal["image", "text"] = "image"
    """Input of the pooler. `image`: the image encoder's tokens of all images of a sample. `text`:
    the multimodal decoder's states of the prompt, one pass per image, whose pooled vectors are
    concatenated."""
    images_per_sample: PositiveInt = 1
    """Images per sample: 1, 2 for a pair, or the number of frames of a video."""
    heads: PositiveInt = 8
    """Attention heads of the pooler; must divide the width of its input."""

    @model_validator(mode="after")
    def _check_rules(self) -> "HeadConfig":
        require(
            len(set(self.classes)) == len(self.classes),
            f"classes must be different names, got {len(self.classes)} of which "
            f"{len(set(self.classes))} differ",
        )
        return self

    def check_width(self, *, image: int, text: int) -> None:
        """Check that `heads` divides the width of the pooler's input."""
        require_heads("head", image if self.reads == "image" else text, self.heads)


class CoCaConfig(Config):
    """Configuration of a CoCa model; the defaults are the paper's CoCa-Base."""

    image: ImageEncoderConfig = Field(default_factory=ViTConfig)
    """The image encoder; `kind` selects its settings."""
    text: TextDecoderConfig = Field(default_factory=TextDecoderConfig)
    """The unimodal and the multimodal text decoder."""
    pooler: PoolerConfig = Field(default_factory=PoolerConfig)
    """Both attentional poolers."""
    embed_dim: PositiveInt = 768
    """Size of the shared embedding. The paper leaves it open. A tower whose width equals it has no
    projection; see `project_text`."""
    project_text: bool = False
    """Project text embeddings even if `text.width` equals `embed_dim`, such as to rotate both
    towers."""
    initial_temperature: Temperature = 0.07
    """Initial value of the learned temperature (paper: 0.07; sigmoid loss: 0.1)."""
    initial_bias: float | None = None
    """Initial value of the learned bias that the sigmoid loss needs (SigLIP: -10). null: no bias,
    as in the paper, since a bias does not change the softmax loss."""
    head: HeadConfig | None = None
    """Classification head for a downstream task or for pretraining; null: none."""

    @model_validator(mode="after")
    def _check_rules(self) -> "CoCaConfig":
        if self.head is not None:
            self.head.check_width(image=self.image.width, text=self.text.width)
        require_heads("pooler", self.image.width, self.pooler.heads)
        return self

    @classmethod
    def presets(cls) -> dict[str, "CoCaConfig"]:
        """Return the named sizes: three of the paper, and small sizes for one machine."""
        return {
            "coca_base": cls(),
            "coca_large": cls._sized(1024, heads=16, layers=24, depth=12),
            "coca_2b": cls._sized(1408, heads=16, layers=40, depth=18, mlp=6144, tied=True),
            "coca_small": cls._small(384, layers=12, depth=6, size=224, patch=16, vocab=32_000),
            "coca_mini": cls._small(256, layers=8, depth=4, size=128, patch=16, vocab=16_000),
            "coca_tiny": cls._small(192, layers=6, depth=3, size=64, patch=8, vocab=8_000),
        }

    @classmethod
    def _small(cls, width: int, **sizes: int) -> "CoCaConfig":
        """Scale the paper's proportions: heads of 64, and a query per token."""
        return cls._sized(width, heads=width // 64, tied=True, **sizes)

    @classmethod
    def _sized(
        cls,
        width: int,
        *,
        heads: int,
        layers: int,
        depth: int,
        mlp: int | None = None,
        size: int = 288,
        patch: int = 18,
        vocab: int = 64_000,
        tied: bool = False,
    ) -> "CoCaConfig":
        """Size all parts alike. MLPs are 4 x width; `mlp` is another width of the encoder's."""
        image = ViTConfig(
            image_size=size,
            patch_size=patch,
            width=width,
            layers=layers,
            heads=heads,
            mlp_width=mlp or 4 * width,
        )
        text = TextDecoderConfig(
            vocab_size=vocab,
            width=width,
            heads=heads,
            mlp_width=4 * width,
            unimodal_layers=depth,
            multimodal_layers=depth,
            tie_embeddings=tied,
        )
        pooler = PoolerConfig(captioning_queries=image.tokens, heads=heads)
        return cls(image=image, text=text, pooler=pooler, embed_dim=width)
