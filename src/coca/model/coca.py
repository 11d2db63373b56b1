"""CoCa: one image encoder, two poolers, two halves of a text decoder, one forward pass.

Source: Yu, Wang, Vasudevan, Yeung, Seyedhosseini, Wu (Google Research, 2022), arXiv 2205.01917.

Dimensions: B batch, T text tokens, P patches, Q image tokens that the decoder reads, D width,
E shared embedding, M real positions of a batch that predict a token, V vocabulary.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.captioner import Captioner
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.backbone import BackboneConfig
from coca.model.encoders.encoder import IMAGE_ENCODERS, ImageEncoder
from coca.model.layers.linear import Linear
from coca.model.layers.packing import Packing
from coca.model.layers.transformer import init_linears_, scale_residuals_
from coca.model.pooling import AttentionalPooler, AttentivePoolingHead, ClassBranch, ClassTokens
from coca.model.text import MultimodalDecoder, UnimodalDecoder


class CoCa(Captioner):
    """A Contrastive Captioner, as in the paper.

    The paper leaves some choices open. Here: pre-norm blocks with GELU and biases, no dropout, a
    norm after each pooler, and no projection where a tower's width equals `embed_dim`.
    """

    config: CoCaConfig
    image_encoder: ImageEncoder
    unimodal_decoder: UnimodalDecoder
    multimodal_decoder: MultimodalDecoder

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__()
        image, text, pooler = config.image, config.text, config.pooler
        self.config = config
        self.image_encoder = IMAGE_ENCODERS.get(image.kind)(image)
        if (size := self.image_encoder.embed_dim) not in (None, config.embed_dim):
            raise ConfigError(
                f"model.embed_dim is {config.embed_dim}, but the embeddings of the frozen encoder "
                f"have {size} numbers; set it to {size}"
            )
        self.captioning_pooler = (
            None
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
        self.image_projection = self.text_projection = nn.Identity()
        if not image.keeps_embeddings:
            self.image_projection = _projection(image.width, config.embed_dim)
            self.text_projection = _projection(text.width, config.embed_dim)
        self.class_branch = self.class_tokens = None
        if isinstance(image, BackboneConfig) and image.class_branch:
            self.class_branch = ClassBranch(image.classes, config.embed_dim)
        if isinstance(image, BackboneConfig) and image.class_tokens:
            self.class_tokens = ClassTokens(
                image.classes, image.class_tokens, image_width=image.width, text_width=text.width
            )
        self.log_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = None if config.initial_bias is None else nn.Parameter(torch.empty(()))
        self.init_weights()
        self.head = (
            None
            if config.head is None
            else AttentivePoolingHead(config.head, image_width=image.width, text_width=text.width)
        )

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

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every weight as CLIP does; the paper does not state its initialization.

        See `init_linears_` and `scale_residuals_`; the rest is initialized here.
        """
        if self.log_scale.is_meta:
            return
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
            if pooler is not None:
                # Large enough that queries attend to different tokens from the start.
                nn.init.normal_(pooler.queries)
        if self.class_branch is not None:
            self.class_branch.init_weights()
        self.log_scale.fill_(-math.log(self.config.initial_temperature))
        if self.logit_bias is not None and self.config.initial_bias is not None:
            self.logit_bias.fill_(self.config.initial_bias)

    def _pool(
        self, encoded: Float[Tensor, "B P D"], *, embedding: bool, reading: bool
    ) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "B Q D"] | None]:
        cascade = self.config.pooler.kind == "cascade"
        tokens = pooled = None
        if reading or cascade:
            pooler = self.captioning_pooler
            tokens = encoded if pooler is None else pooler(encoded)
        if embedding:
            if self.contrastive_pooler is None:
                raise ConfigError(
                    "the embeddings are those of the frozen encoder (image.embeddings is tower), "
                    "so this model has captions only"
                )
            pooled = self.contrastive_pooler(tokens if cascade else encoded)[:, 0]
        return pooled, tokens

    def _packing(self, tokens: Int[Tensor, "B T"], *, padded: bool = False) -> Packing:
        if padded:
            captions, length = tokens.shape
            return Packing.padded(captions, length, tokens.device)
        return Packing.of((tokens != self.config.text.pad_id).sum(dim=1))

    @property
    def _unlabeled_rows(self) -> int:
        return 2  # [EOS] and [CLS]


def _projection(width: int, embed_dim: int) -> nn.Module:
    return nn.Identity() if width == embed_dim else Linear(width, embed_dim, bias=False)
