"""CoCa: one image encoder, two poolers, two halves of a text decoder, one forward pass.

Source: Yu, Wang, Vasudevan, Yeung, Seyedhosseini, Wu (Google Research, 2022), arXiv 2205.01917.

Letters: B batch, T text tokens, P patches, Q image tokens that the decoder reads, D width,
E shared embedding, M real positions of a batch that predict a word, V vocabulary.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.captioner import Captioner, CoCaOutput, Poolings
from coca.model.config import CoCaConfig
from coca.model.heads import ClassificationHead
from coca.model.initial import draw_linears_, shrink_residuals_
from coca.model.packing import Packing
from coca.model.pooling import AttentionalPooler
from coca.model.text import MultimodalDecoder, UnimodalDecoder
from coca.model.vision import ImageEncoder


class CoCa(Captioner):
    """A Contrastive Captioner, as in the paper.

    Not stated there, so chosen here: pre-norm blocks with GELU and biases, no dropout, a norm
    behind each pooler, no projection where a tower's width equals `embed_dim`.
    """

    config: CoCaConfig
    image_encoder: ImageEncoder
    unimodal_decoder: UnimodalDecoder
    multimodal_decoder: MultimodalDecoder

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__()
        image, text, pooler = config.image, config.text, config.pooler
        self.config = config
        self.image_encoder = ImageEncoder(image)
        self.captioning_pooler = (
            None
            if pooler.kind == "none"
            else AttentionalPooler(image.width, pooler.heads, pooler.captioning_queries)
        )
        self.contrastive_pooler = AttentionalPooler(image.width, pooler.heads, 1)
        self.unimodal_decoder = UnimodalDecoder(text)
        self.multimodal_decoder = MultimodalDecoder(text, image.width)
        self.vocabulary = (
            None if text.tie_embeddings else nn.Linear(text.width, text.vocab_size, bias=False)
        )
        self.image_projection = _projection(image.width, config.embed_dim)
        self.text_projection = _projection(text.width, config.embed_dim)
        self.classification_head = (
            ClassificationHead(image.width, config.num_classes) if config.num_classes else None
        )
        self.log_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = None if config.initial_bias is None else nn.Parameter(torch.empty(()))
        self.initialise()

    def forward(
        self,
        images: Float[Tensor, "B C height width"],
        tokens: Int[Tensor, "B T"],
        *,
        contrastive: bool = True,
        captioning: bool = True,
        classification: bool = False,
    ) -> CoCaOutput:
        """Runs each tower at most once, and only if a wanted part needs it.

        Args:
            images: Normalised pictures; sides in pixels, multiples of the patch size.
            tokens: Captions as `[BOS] w1 .. wn [EOS] [CLS] [PAD] ..`.
            contrastive: Give both embeddings.
            captioning: Give the decoder's states and targets.
            classification: Give class logits.
        """
        encoded = self.image_encoder(images)
        image_tokens = self._image_tokens(encoded)
        pooled = self._pool(encoded, image_tokens) if contrastive or classification else None
        image_embedding = text_embedding = states = targets = None
        if contrastive or captioning:
            packing = self._packing(tokens)
            unimodal = self.unimodal_decoder(tokens, packing=packing)
            if contrastive:
                assert pooled is not None
                image_embedding = self._embed(pooled, self.image_projection)
                text_embedding = self._embed(
                    self.unimodal_decoder.embedding(unimodal, tokens, packing),
                    self.text_projection,
                )
            if captioning:
                # The last two tokens of a caption, [EOS] and [CLS], predict nothing.
                inner = packing.shortened(2)
                decoded = self.multimodal_decoder(
                    packing.shorten(unimodal, 2), image_tokens[packing.order], packing=inner
                )
                real = self.predicts(tokens)
                states = decoded[inner.rows(real)]
                targets = tokens[:, 1:][real[:, :-1]]
        return CoCaOutput(
            image_embedding=image_embedding,
            text_embedding=text_embedding,
            caption_states=states,
            caption_targets=targets,
            class_logits=self._classify(pooled) if classification else None,
        )

    def encode_image(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B E"]:
        """Gives the unit vector of each picture."""
        encoded = self.image_encoder(images)
        return self._embed(self._pool(encoded, self._image_tokens(encoded)), self.image_projection)

    def encode_text(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Gives the unit vector of each caption."""
        packing = self._packing(tokens)
        states = self.unimodal_decoder(tokens, packing=packing)
        pooled = self.unimodal_decoder.embedding(states, tokens, packing)
        return self._embed(pooled, self.text_projection)

    def image_tokens(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B Q D"]:
        """Gives the tokens that the decoder reads: the captioning pooler's output."""
        return self._image_tokens(self.image_encoder(images))

    def predicts(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Marks the positions whose next token the captioning loss asks for: [BOS] and words."""
        text = self.config.text
        return (tokens != text.eos_id) & (tokens != text.cls_id) & (tokens != text.pad_id)

    @property
    def poolings(self) -> Poolings:
        captioning = () if self.captioning_pooler is None else (self.captioning_pooler.laid_open(),)
        last = (self.contrastive_pooler.laid_open(),)
        cascade = self.config.pooler.kind == "cascade"
        contrastive = (*captioning, *last) if cascade else last
        return Poolings(captioning, contrastive, self.image_projection)

    @property
    def vocabulary_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from decoder states to word logits, tied to the input embedding or not."""
        if self.vocabulary is None:
            return self.unimodal_decoder.token_embedding.weight
        return self.vocabulary.weight

    @torch.no_grad()
    def initialise(self) -> None:
        """Sets every weight; the paper states none of this, so it follows CLIP.

        See `draw_linears_` and `shrink_residuals_`; embeddings, positions and queries stand below.
        """
        if self.log_scale.is_meta:
            return
        draw_linears_(self)
        image, text = self.config.image, self.config.text
        text_layers = text.unimodal_layers + text.multimodal_layers
        shrink_residuals_(self.image_encoder, image.layers)
        shrink_residuals_(self.unimodal_decoder, text_layers)
        shrink_residuals_(self.multimodal_decoder, text_layers)
        for learned in (
            self.image_encoder.positions,
            self.unimodal_decoder.positions,
            self.unimodal_decoder.token_embedding.weight,
        ):
            nn.init.normal_(learned, std=learned.shape[1] ** -0.5)
        for pooler in (self.captioning_pooler, self.contrastive_pooler):
            if pooler is not None:
                # Large enough that each query attends to something of its own from the start.
                nn.init.normal_(pooler.queries)
        self.log_scale.fill_(-math.log(self.config.initial_temperature))
        if self.logit_bias is not None and self.config.initial_bias is not None:
            self.logit_bias.fill_(self.config.initial_bias)

    def _image_tokens(self, encoded: Float[Tensor, "B P D"]) -> Float[Tensor, "B Q D"]:
        return encoded if self.captioning_pooler is None else self.captioning_pooler(encoded)

    def _pool(
        self, encoded: Float[Tensor, "B P D"], image_tokens: Float[Tensor, "B Q D"]
    ) -> Float[Tensor, "B D"]:
        cascade = self.config.pooler.kind == "cascade"
        return self.contrastive_pooler(image_tokens if cascade else encoded)[:, 0]

    def _packing(self, tokens: Int[Tensor, "B T"]) -> Packing:
        return Packing.of((tokens != self.config.text.pad_id).sum(dim=1))

    def _embed(self, pooled: Float[Tensor, "B D"], projection: nn.Module) -> Float[Tensor, "B E"]:
        # Normalised in fp32: in half precision the length would be off by a percent.
        return F.normalize(projection(pooled).float(), dim=-1).to(pooled.dtype)

    def _classify(self, pooled: Float[Tensor, "B D"] | None) -> Float[Tensor, "B classes"]:
        assert pooled is not None
        assert self.classification_head is not None, "num_classes is 0: there is no head"
        return self.classification_head(pooled)


def _projection(width: int, embed_dim: int) -> nn.Module:
    return nn.Identity() if width == embed_dim else nn.Linear(width, embed_dim, bias=False)
