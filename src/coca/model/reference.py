"""CoCa in plain PyTorch, written from the paper: the place to start, and the oracle of the tests.

Source: Yu et al. (Google Research, 2022), arXiv 2205.01917, section 3.2 and figure 2. Nothing here
is fast. `coca.model.coca` computes the same values and gradients from the same state dict.

    images -> image encoder -> captioning pooler -> contrastive pooler -> image embedding
                                      |
    tokens -> unimodal decoder -> multimodal decoder -> logits of the next tokens
                     |
            state at [CLS] -> text embedding

A caption is `[BOS] w1 .. wn [EOS] [CLS] [PAD] ..`. Attention of text is causal, so no real token
attends to padding, and only [CLS] attends to [CLS].

Dimensions: B pairs, P patches, Q queries, T, L, S tokens, D, C widths, E embedding, V vocabulary.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.coca_config import CoCaConfig, TextDecoderConfig
from coca.model.encoders.vit import ViTConfig

Tokens = Float[Tensor, "B L D"]
Keys = Float[Tensor, "B S D"]
Context = Float[Tensor, "B S C"]


def attention(q: Tokens, k: Keys, v: Keys, heads: int, *, causal: bool = False) -> Tokens:
    """Compute softmax(Q K' / sqrt(d)) V in each head of d features."""
    q, k, v = (rearrange(x, "B L (H d) -> B H L d", H=heads) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
    if causal:
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return rearrange(scores.softmax(dim=3) @ v, "B H L d -> B L (H d)")


class SelfAttention(nn.Module):
    """Self-attention. Keys have no bias: the softmax would cancel it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tokens, *, causal: bool) -> Tokens:
        q, k, v = self.qkv(tokens).chunk(3, dim=2)
        q, v = q + self.query_bias, v + self.value_bias
        return self.out(attention(q, k, v, self.heads, causal=causal))


class CrossAttention(nn.Module):
    """Attention of text tokens, or of a pooler's queries, to image tokens."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tokens, context: Context) -> Tokens:
        keys, values = self.key_value(context).chunk(2, dim=2)
        return self.out(attention(self.query(tokens), keys, values + self.value_bias, self.heads))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tokens) -> Tokens:
        return self.down(F.gelu(self.up(tokens)))


class Block(nn.Module):
    """Pre-norm layer: self-attention, cross-attention to the image if multimodal, then MLP."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, image_width: int | None = None
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        if image_width is not None:
            self.cross_norm = nn.LayerNorm(width)
            self.cross_attention = CrossAttention(width, image_width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width)

    def forward(self, tokens: Tokens, image: Context | None = None, *, causal: bool) -> Tokens:
        tokens = tokens + self.attention(self.attention_norm(tokens), causal=causal)
        if image is not None:
            tokens = tokens + self.cross_attention(self.cross_norm(tokens), image)
        return tokens + self.mlp(self.mlp_norm(tokens))


class ImageEncoder(nn.Module):
    """A Vision Transformer without class token: one token per patch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.patch_embedding = nn.Linear(config.channels * config.patch_size**2, config.width)
        self.positions = nn.Parameter(torch.zeros(config.tokens, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Float[Tensor, "B RGB height width"]) -> Float[Tensor, "B P D"]:
        p = self.patch_size
        patches = rearrange(images, "B C (h p) (w q) -> B (h w) (C p q)", p=p, q=p)
        tokens = self.patch_embedding(patches) + self.positions
        for block in self.blocks:
            tokens = block(tokens, causal=False)
        return self.norm(tokens)


class AttentionalPooler(nn.Module):
    """One attention layer whose learned queries attend to all tokens (section 3.2)."""

    def __init__(self, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(queries, width))
        self.attention = CrossAttention(width, width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "B S D"]) -> Float[Tensor, "B Q D"]:
        return self.norm(self.attention(self.queries.expand(len(tokens), -1, -1), tokens))


class UnimodalDecoder(nn.Module):
    """The lower half of the text decoder, which does not see the image."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width)
            for _ in range(config.unimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        states = self.token_embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            states = block(states, causal=True)
        return states


class MultimodalDecoder(nn.Module):
    """The upper half of the text decoder, which attends to the image in each layer."""

    def __init__(self, config: TextDecoderConfig, image_width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width, image_width=image_width)
            for _ in range(config.multimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, states: Float[Tensor, "B T D"], image: Float[Tensor, "B Q C"]
    ) -> Float[Tensor, "B T D"]:
        for block in self.blocks:
            states = block(states, image, causal=True)
        return self.norm(states)


class ReferenceCoCa(nn.Module):
    """A Contrastive Captioner; its parameters have the names of `coca.model.coca.CoCa`."""

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__()
        image, text, pooler = config.image, config.text, config.pooler
        assert isinstance(image, ViTConfig), "the paper's image encoder is a ViT"
        self.config = config
        self.image_encoder = ImageEncoder(image)
        if pooler.kind != "none":
            queries = pooler.captioning_queries
            self.captioning_pooler = AttentionalPooler(image.width, pooler.heads, queries)
        self.contrastive_pooler = AttentionalPooler(image.width, pooler.heads, 1)
        self.unimodal_decoder = UnimodalDecoder(text)
        self.multimodal_decoder = MultimodalDecoder(text, image.width)
        if not text.tie_embeddings:
            self.vocabulary = nn.Linear(text.width, text.vocab_size, bias=False)
        self.image_projection = projection(image.width, config.embed_dim)
        self.text_projection = projection(text.width, config.embed_dim)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self, images: Float[Tensor, "B RGB height width"], tokens: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"], Float[Tensor, "B T V"]]:
        """Compute the embeddings of images and captions, and the logits of all next tokens."""
        encoded, kind = self.image_encoder(images), self.config.pooler.kind
        image_tokens = encoded if kind == "none" else self.captioning_pooler(encoded)
        pooled = self.contrastive_pooler(image_tokens if kind == "cascade" else encoded)[:, 0]
        unimodal = self.unimodal_decoder(tokens)
        at_cls = self.unimodal_decoder.norm(unimodal[tokens == self.config.text.cls_id])
        text = self.unimodal_decoder
        vocabulary = text.token_embedding if self.config.text.tie_embeddings else self.vocabulary
        return (
            F.normalize(self.image_projection(pooled), dim=1),
            F.normalize(self.text_projection(at_cls), dim=1),
            F.linear(self.multimodal_decoder(unimodal, image_tokens), vocabulary.weight),
        )

    def loss(
        self, images: Float[Tensor, "B RGB height width"], tokens: Int[Tensor, "B T"]
    ) -> Float[Tensor, ""]:
        """Compute the loss of the paper in nats: contrastive + 2 x captioning (eq. 4)."""
        image_embedding, text_embedding, logits = self(images, tokens)
        contrastive = contrastive_loss(image_embedding, text_embedding, self.log_scale.exp())
        return contrastive + 2 * captioning_loss(logits, tokens, self.config.text)


def projection(width: int, embed_dim: int) -> nn.Module:
    """Return the projection to the shared embedding; none where the widths are equal."""
    return nn.Identity() if width == embed_dim else nn.Linear(width, embed_dim, bias=False)


def contrastive_loss(
    images: Float[Tensor, "B E"], texts: Float[Tensor, "B E"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Sum the cross entropies of matching images to captions and captions to images (eq. 2)."""
    similarity = scale * images @ texts.T
    partner = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner)


def captioning_loss(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], config: TextDecoderConfig
) -> Float[Tensor, ""]:
    """Average the cross entropy of w1 .. wn and [EOS] over the tokens of the batch (eq. 3)."""
    targets = tokens[:, 1:]
    is_label = (targets != config.cls_id) & (targets != config.pad_id)
    return F.cross_entropy(logits[:, :-1][is_label], targets[is_label])
