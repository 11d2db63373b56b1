"""The shape of a CoCa model as frozen values, with the sizes of the paper (Table 1) as presets."""

from dataclasses import dataclass, field, replace
from typing import Literal

from coca.core.errors import ConfigError


def _require(statement: bool, message: str) -> None:
    if not statement:
        raise ConfigError(message)


def _require_heads(name: str, width: int, heads: int) -> None:
    _require(
        heads > 0 and width % heads == 0,
        f"{name}: heads {heads} do not divide width {width}; choose a divisor of {width}",
    )


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """A Vision Transformer without class token; poolers read all of its tokens."""

    image_size: int = 288
    """Side of the square input in pixels; other sizes resize the positions."""
    patch_size: int = 18
    """Side of a patch in pixels; 288/18 gives the 256 tokens of the paper."""
    channels: int = 3
    """Colour channels of the input."""
    width: int = 768
    """Features per token."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads per block."""
    mlp_width: int = 3072
    """Hidden features of each MLP."""

    def __post_init__(self) -> None:
        s, p = self.image_size, self.patch_size
        _require(p > 0, f"patch_size must be at least 1 pixel (got {p})")
        near = sorted({max(s // p, 1) * p, (s // p + 1) * p})
        _require(
            s >= p and s % p == 0,
            f"patch_size {p} does not divide image_size {s}; near sizes that fit: "
            + ", ".join(map(str, near)),
        )
        for name in ("channels", "width", "layers", "mlp_width"):
            _require(getattr(self, name) > 0, f"image.{name} must be at least 1")
        _require_heads("image", self.width, self.heads)

    @property
    def tokens(self) -> int:
        """Tokens of one image at the native size."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextDecoderConfig:
    """A causal decoder cut in two: the lower half never sees the image."""

    vocab_size: int = 64_000
    """Words of the tokenizer, special ones included."""
    context_length: int = 64
    """Longest caption in tokens, with [BOS], [EOS] and [CLS]. The paper leaves it open; follow-ups
    that repeat its recipe say 64."""
    width: int = 768
    """Features per token."""
    heads: int = 12
    """Attention heads per block."""
    mlp_width: int = 3072
    """Hidden features of each MLP."""
    unimodal_layers: int = 12
    """Blocks that read text only."""
    multimodal_layers: int = 12
    """Blocks that also read the image."""
    tie_embeddings: bool = False
    """Share the input embedding with the output layer. The paper's counts for Base and Large need
    it untied, the one for 2B needs it tied."""
    pad_id: int = 0
    """Fills a batch behind [CLS]; never seen by a real token."""
    bos_id: int = 1
    """Begins each caption."""
    eos_id: int = 2
    """Ends the words of a caption; predicted by the captioning loss."""
    cls_id: int = 3
    """Learned token behind [EOS]; its unimodal state is the text embedding."""

    def __post_init__(self) -> None:
        for name in ("width", "mlp_width", "unimodal_layers", "multimodal_layers"):
            _require(getattr(self, name) > 0, f"text.{name} must be at least 1")
        _require(
            self.context_length >= 4,
            f"text.context_length must be at least 4 to hold [BOS], a word, [EOS] and [CLS] "
            f"(got {self.context_length})",
        )
        _require_heads("text", self.width, self.heads)
        special = (self.pad_id, self.bos_id, self.eos_id, self.cls_id)
        _require(
            len(set(special)) == 4 and min(special) >= 0 and max(special) < self.vocab_size,
            f"pad, bos, eos and cls ids must be four different ids below vocab_size "
            f"{self.vocab_size} (got {special})",
        )

    @property
    def max_text_tokens(self) -> int:
        """Words that a caption has room for beside [BOS], [EOS] and [CLS]."""
        return self.context_length - 3

    @property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Ids that never follow a word, whatever an untrained model believes."""
        return (self.pad_id, self.bos_id, self.cls_id)


@dataclass(frozen=True, kw_only=True)
class PoolerConfig:
    """How the image tokens are read by the decoder and by the contrastive loss."""

    kind: Literal["cascade", "parallel", "none"] = "cascade"
    """`cascade`: the contrastive query reads what the captioning queries gathered (the paper's
    default); `parallel`: both read the encoder; `none`: the decoder reads all encoder tokens."""
    captioning_queries: int = 256
    """Image tokens that the decoder attends to; unused with `none`."""
    heads: int = 12
    """Attention heads of both poolers."""

    def __post_init__(self) -> None:
        _require(
            self.captioning_queries > 0,
            f"pooler.captioning_queries must be at least 1 (got {self.captioning_queries}); "
            "to let the decoder read all encoder tokens, set pooler.kind=none",
        )


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A head for one downstream problem, on top of a whole model (the paper's section 4.2).

    A new attentional pooler with a single query, then a linear layer. The same for frozen features
    and for fine-tuning.
    """

    classes: tuple[str, ...]
    """What it chooses from, in the order of its logits: names of things, actions, answers."""
    reads: Literal["image", "words"] = "image"
    """`image`: the image encoder's tokens, of all images of a sample at once. `words`: the
    multimodal decoder's states of what is asked, one pass for each image, whose pooled vectors
    are put side by side."""
    pictures: int = 1
    """Pictures of a sample: 1, 2 for a pair, or the frames of a video."""
    heads: int = 8
    """Attention heads of its pooler; a divisor of the width that it reads."""

    def __post_init__(self) -> None:
        _require(
            len(self.classes) > 1 and len(set(self.classes)) == len(self.classes),
            f"a head needs two or more different classes (got {len(self.classes)} of which "
            f"{len(set(self.classes))} differ)",
        )
        _require(self.pictures > 0, f"head.pictures must be at least 1 (got {self.pictures})")

    def check_width(self, *, image: int, words: int) -> None:
        """Holds its heads against the width of what it reads.

        Raises:
            ConfigError: They do not divide it.
        """
        _require_heads("head", image if self.reads == "image" else words, self.heads)


@dataclass(frozen=True, kw_only=True)
class CoCaConfig:
    """A whole model; the defaults are the paper's CoCa-Base."""

    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    """The image encoder."""
    text: TextDecoderConfig = field(default_factory=TextDecoderConfig)
    """Both text decoders."""
    pooler: PoolerConfig = field(default_factory=PoolerConfig)
    """Both attentional poolers."""
    embed_dim: int = 768
    """Size of the shared embedding. The paper leaves it open; where it equals a tower's width,
    that tower needs no projection."""
    initial_temperature: float = 0.07
    """Start of the learned temperature of the contrastive loss (paper: 0.07; sigmoid loss: 0.1)."""
    initial_bias: float | None = None
    """Start of the learned bias that the sigmoid loss needs (SigLIP: -10); null: there is none,
    as in the paper, whose loss no bias can change."""
    head: HeadConfig | None = None
    """A head for a downstream problem, or for naming classes beside pretraining; null: none."""

    def __post_init__(self) -> None:
        if self.head is not None:
            self.head.check_width(image=self.image.width, words=self.text.width)
        _require_heads("pooler", self.image.width, self.pooler.heads)
        _require(self.embed_dim > 0, f"embed_dim must be at least 1 (got {self.embed_dim})")
        _require(
            0.01 <= self.initial_temperature <= 1,
            f"initial_temperature must lie in 0.01 to 1, the range it is clamped to "
            f"(got {self.initial_temperature})",
        )

    @classmethod
    def presets(cls) -> dict[str, "CoCaConfig"]:
        """Gives the named sizes: three of the paper and small ones for one machine."""
        base = cls()
        large = cls._of(width=1024, layers=24, heads=16, image_mlp=4096, text_mlp=4096, depth=12)
        big = cls._of(width=1408, layers=40, heads=16, image_mlp=6144, text_mlp=5632, depth=18)
        return {
            "coca_base": base,
            "coca_large": large,
            "coca_2b": replace(big, text=replace(big.text, tie_embeddings=True)),
            "coca_small": cls._small(384, layers=12, depth=6, size=224, patch=16, vocab=32_000),
            "coca_mini": cls._small(256, layers=8, depth=4, size=128, patch=16, vocab=16_000),
            "coca_tiny": cls._small(192, layers=6, depth=3, size=64, patch=8, vocab=8_000),
        }

    @classmethod
    def _of(
        cls, *, width: int, layers: int, heads: int, image_mlp: int, text_mlp: int, depth: int
    ) -> "CoCaConfig":
        return cls(
            image=ImageEncoderConfig(width=width, layers=layers, heads=heads, mlp_width=image_mlp),
            text=TextDecoderConfig(
                width=width,
                heads=heads,
                mlp_width=text_mlp,
                unimodal_layers=depth,
                multimodal_layers=depth,
            ),
            pooler=PoolerConfig(heads=heads),
            embed_dim=width,
        )

    @classmethod
    def _small(
        cls, width: int, *, layers: int, depth: int, size: int, patch: int, vocab: int
    ) -> "CoCaConfig":
        """The paper's proportions: heads of 64, MLPs of four widths, a query for each token."""
        heads = width // 64
        image = ImageEncoderConfig(
            image_size=size,
            patch_size=patch,
            width=width,
            layers=layers,
            heads=heads,
            mlp_width=4 * width,
        )
        text = TextDecoderConfig(
            vocab_size=vocab,
            width=width,
            heads=heads,
            mlp_width=4 * width,
            unimodal_layers=depth,
            multimodal_layers=depth,
            tie_embeddings=True,
        )
        pooler = PoolerConfig(captioning_queries=image.tokens, heads=heads)
        return cls(image=image, text=text, pooler=pooler, embed_dim=width)
