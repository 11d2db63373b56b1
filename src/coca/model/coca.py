"""CoCa: one image encoder, two poolers, two halves of a text decoder, one forward pass.

Source: Yu, Wang, Vasudevan, Yeung, Seyedhosseini, Wu (Google Research, 2022), arXiv 2205.01917,
section 3.2 and figure 2. `examples/minimal_coca.py` computes the same without any optimization.

    images -> image encoder -> captioning pooler -> contrastive pooler -> image embedding
                                      |
    tokens -> unimodal decoder -> multimodal decoder -> states, and from them logits of next tokens
                     |
            state at [CLS] -> text embedding

Captions are tokens as `coca.model.text_decoder` describes them.

Dimensions: B batch, T text tokens, M rows of packed captions, F images of a series, P tokens of the
image encoder, Q queries, S tokens attended to, D width, C image width, E shared embedding, V
vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.encoder import IMAGE_ENCODERS, EncodedImages, ImageEncoder
from coca.model.layers.packing import Packing, to_device
from coca.model.layers.transformer import (
    CrossAttention,
    Linear,
    init_linears_,
    scale_residuals_,
    unit,
)
from coca.model.losses.captioning_loss import captioning_loss
from coca.model.losses.contrastive_loss import contrastive_loss
from coca.model.text_decoder import Decoded, MultimodalDecoder, UnimodalDecoder


@dataclass(frozen=True)
class CoCaOutput:
    """Outputs of a forward pass. An objective that needs only some leaves out the others (None)."""

    encoded: Float[Tensor, "B P C"]
    """Tokens of the image encoder, which a classification head reads."""
    image_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the images."""
    text_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the captions."""
    decoded: Decoded | None
    """States of the captions, for the logits of their next tokens."""


class AttentionalPooler(nn.Module):
    """Pool any number of tokens into a fixed number of learned queries (section 3.2).

    A single multi-head attention layer with learned queries, as in the paper. CoCa pools twice:
    256 queries keep the detail for captioning; one query gives the contrastive embedding.
    The output norm is an addition, which the paper does not show. Every decoder layer attends to
    these tokens, so they are normalized once here and not once per layer.
    """

    def __init__(self, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.attention = CrossAttention(width, width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "B S D"], *, real: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Pool tokens into one vector per query; `real` masks padding out."""
        mask = None if real is None else real[:, None, None]
        context = self.attention.project(tokens)
        return self.norm(self.attention.forward_shared(self.queries, context, mask=mask))


class CoCa(nn.Module):
    """A Contrastive Captioner, as in the paper.

    The paper leaves some choices open. Here: pre-norm blocks with GELU and biases, no dropout, a
    norm after each pooler, and no projection where a tower's width equals `embed_dim`.

    `coca.model.pretrained.build` adds the classification head of a configuration.
    """

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__()
        image, text, pooler = config.image, config.text, config.pooler
        self.config = config
        self.image_encoder: ImageEncoder = IMAGE_ENCODERS.get(image.kind)(image)
        if (size := self.image_encoder.embed_dim) not in (None, config.embed_dim):
            raise ConfigError(
                f"model.embed_dim is {config.embed_dim}, but the embeddings of the frozen encoder "
                f"have {size} numbers; set it to {size}"
            )
        self.captioning_pooler = (
            nn.Identity()
            if pooler.kind == "none"
            else AttentionalPooler(image.width, pooler.heads, pooler.captioning_queries)
        )
        self.contrastive_pooler = (
            None if image.keeps_embeddings else AttentionalPooler(image.width, pooler.heads, 1)
        )
        self.unimodal_decoder = UnimodalDecoder(text)
        self.multimodal_decoder = MultimodalDecoder(text, image.width)
        self.vocabulary = (
            None if text.tie_embeddings else Linear(text.width, text.vocab_size, bias=False)
        )
        embed_dim = None if image.keeps_embeddings else config.embed_dim
        self.image_projection = _projection(image.width, embed_dim)
        self.text_projection = _projection(text.width, embed_dim, if_equal=config.project_text)
        self.add_modules()
        self.log_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = None if config.initial_bias is None else nn.Parameter(torch.empty(()))
        self.head: nn.Module | None = None
        self.init_weights()

    def add_modules(self) -> None:
        """Add modules of a subclass, before all weights are initialized."""

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every weight as CLIP does; the paper does not state its initialization.

        See `init_linears_` and `scale_residuals_`; the rest is initialized here.
        """
        init_linears_(self)
        text = self.config.text
        text_layers = text.unimodal_layers + text.multimodal_layers
        self.image_encoder.init_weights()
        scale_residuals_(self.unimodal_decoder, text_layers)
        scale_residuals_(self.multimodal_decoder, text_layers)
        for learned in (
            self.unimodal_decoder.positions,
            self.unimodal_decoder.token_embedding.weight,
        ):
            nn.init.normal_(learned, std=learned.shape[1] ** -0.5)
        for pooler in (self.captioning_pooler, self.contrastive_pooler):
            if isinstance(pooler, AttentionalPooler):
                # Large enough that queries attend to different tokens from the start.
                nn.init.normal_(pooler.queries)
        self.log_scale.fill_(-math.log(self.config.initial_temperature))
        if self.logit_bias is not None and self.config.initial_bias is not None:
            self.logit_bias.fill_(self.config.initial_bias)

    def forward(
        self,
        images: Float[Tensor, "B *F RGB height width"] | Float[Tensor, "B P F"],
        tokens: Int[Tensor, "B T"],
    ) -> CoCaOutput:
        """Compute both embeddings and the states of the captions in one pass, as in figure 2.

        A model that keeps the embeddings of its frozen encoder computes the states only.

        Args:
            images: Normalized images; sides in pixels, multiples of the patch size. Or what
                `ImageEncoder.forward` accepts in their place: series of images, cached features.
            tokens: Captions. On the host, nothing waits for an accelerator.
        """
        encoded = self.encode(images)
        if self.config.image.keeps_embeddings:
            decoded = self.decode(tokens, self.pool_tokens(encoded))
            return CoCaOutput(encoded.tokens, None, None, decoded)
        image_embedding, image_tokens = self.pool(encoded)

        packing, device = self.unimodal_decoder.pack(tokens), image_tokens.device
        placed, packed = to_device(tokens, device), packing.to(device)
        unimodal = self.unimodal_decoder(placed, packing=packed)
        at_cls = self.unimodal_decoder.embedding(unimodal, placed, packed)
        text_embedding = unit(self.text_projection(at_cls))

        decoded = self._decode(unimodal, image_tokens, tokens, packing)
        return CoCaOutput(encoded.tokens, image_embedding, text_embedding, decoded)

    def loss(
        self,
        images: Float[Tensor, "B *F RGB height width"] | Float[Tensor, "B P F"],
        tokens: Int[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """Compute the loss of the paper in nats: contrastive + 2 x captioning (eq. 4).

        Arguments as of `forward`. A part that the model does not compute is left out.
        `coca.train.objective` weights both, and adds the losses of heads and plug-ins.
        """
        output: CoCaOutput = self(images, tokens)
        loss = self.log_scale.new_zeros(())
        if output.decoded is not None:
            states, targets = output.decoded.labelled()
            loss = loss + 2 * captioning_loss(states, targets, self.vocabulary_weight)
        if output.image_embedding is not None and output.text_embedding is not None:
            pairs = output.image_embedding, output.text_embedding
            loss = loss + contrastive_loss(*pairs, self.logit_scale)[0]
        return loss

    def encode(
        self, images: Float[Tensor, "B *F RGB height width"] | Float[Tensor, "B P F"]
    ) -> EncodedImages:
        """Encode images, or series of F images, to tokens."""
        return EncodedImages(self.image_encoder(images))

    def pool(self, encoded: EncodedImages) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B S C"]]:
        """Compute `pool_embedding` and `pool_tokens` together."""
        queries = self.captioning_pooler(encoded.tokens)
        cascades = self.config.pooler.kind == "cascade"
        return self._embedding(queries if cascades else encoded.tokens), queries

    def pool_embedding(self, encoded: EncodedImages) -> Float[Tensor, "B E"]:
        """Pool encoded images to unit-length embeddings."""
        if self.config.pooler.kind == "cascade":
            return self._embedding(self.captioning_pooler(encoded.tokens))
        return self._embedding(encoded.tokens)

    def pool_tokens(self, encoded: EncodedImages) -> Float[Tensor, "B S C"]:
        """Pool encoded images to the tokens that the decoder reads."""
        return self.captioning_pooler(encoded.tokens)

    def encode_image(self, images: Float[Tensor, "B *F RGB height width"]) -> Float[Tensor, "B E"]:
        """Compute the unit-length embedding of each image, or of each series of F images.

        The poolers attend to the concatenated tokens of a series, as in VideoCoCa.
        """
        return self.pool_embedding(self.encode(images))

    def image_tokens(
        self, images: Float[Tensor, "B *F RGB height width"]
    ) -> Float[Tensor, "B S C"]:
        """Compute the decoder's image tokens of each image, or of each series of F images."""
        return self.pool_tokens(self.encode(images))

    def encode_text(
        self, tokens: Int[Tensor, "B T"], *, padded: bool = False
    ) -> Float[Tensor, "B E"]:
        """Compute the unit-length embedding of each caption; `padded`: without packing."""
        device = self.log_scale.device
        packing = self.unimodal_decoder.pack(tokens, padded=padded).to(device)
        tokens = to_device(tokens, device)
        unimodal = self.unimodal_decoder(tokens, packing=packing)
        at_cls = self.unimodal_decoder.embedding(unimodal, tokens, packing)
        return unit(self.text_projection(at_cls))

    def decode(self, tokens: Int[Tensor, "B T"], image_tokens: Float[Tensor, "B S C"]) -> Decoded:
        """Run both decoders on captions, each with its own image tokens."""
        packing, device = self.unimodal_decoder.pack(tokens), image_tokens.device
        unimodal = self.unimodal_decoder(to_device(tokens, device), packing=packing.to(device))
        return self._decode(unimodal, image_tokens, tokens, packing)

    def label_mask(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Mark the positions whose next token is a captioning label: [BOS] and text tokens."""
        text = self.config.text
        return (tokens != text.eos_id) & (tokens != text.cls_id) & (tokens != text.pad_id)

    @property
    def vocabulary_weight(self) -> Float[Tensor, "V D"]:
        """The (V, D) matrix from decoder states to logits; may be the input embedding (tied)."""
        if self.vocabulary is None:
            return self.unimodal_decoder.token_embedding.weight
        return self.vocabulary.weight

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The factor on the cosine similarities of the contrastive loss: one over temperature."""
        return self.log_scale.exp()

    def _embedding(self, tokens: Float[Tensor, "B S C"]) -> Float[Tensor, "B E"]:
        """Pool tokens to unit-length embeddings."""
        if self.contrastive_pooler is None:
            raise ConfigError(
                "the embeddings are those of the frozen encoder (image.embeddings is tower), "
                "so this model has captions only"
            )
        return unit(self.image_projection(self.contrastive_pooler(tokens)[:, 0]))

    def _decode(
        self,
        unimodal: Float[Tensor, "M D"],
        image_tokens: Float[Tensor, "B S C"],
        tokens: Int[Tensor, "B T"],
        packing: Packing,
    ) -> Decoded:
        """Run the multimodal decoder on the rows that may have a label."""
        rows, packed = self.unimodal_decoder.unlabeled_rows, packing.to(unimodal.device)
        states = self.multimodal_decoder(
            packed.shorten(unimodal, rows),
            image_tokens[packed.order],
            packing=packed.shortened(rows),
        )
        return Decoded(states, packing.shortened(rows), tokens, self.label_mask(tokens))


def _projection(width: int, embed_dim: int | None, *, if_equal: bool = False) -> nn.Module:
    """Return the projection to the shared embedding; the identity if it needs none.

    A tower of the embedding's width has a projection with `if_equal` only.
    """
    if embed_dim is None or (embed_dim == width and not if_equal):
        return nn.Identity()
    return Linear(width, embed_dim, bias=False)
