"""CoCa: one image encoder, two poolers, two halves of a text decoder, one forward pass.

Source: Yu, Wang, Vasudevan, Yeung, Seyedhosseini, Wu (Google Research, 2022), arXiv 2205.01917.

Letters: B batch, T text tokens, P patches, Q image tokens that the decoder reads, D width,
E shared embedding, M real positions of a batch that predict a word, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.config import CoCaConfig
from coca.model.heads import ClassificationHead
from coca.model.layers import MLP, CrossAttention, SelfAttention
from coca.model.pooling import AttentionalPooler
from coca.model.text import MultimodalDecoder, UnimodalDecoder
from coca.model.vision import ImageEncoder

HOTTEST, COLDEST = 1.0, 0.01
"""Range of the learned temperature; 0.01 is the bound that CLIP set."""


@dataclass(frozen=True)
class CoCaOutput:
    """What one forward pass gives; a part that was not asked for is None."""

    image_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the pictures."""
    text_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the captions."""
    caption_states: Float[Tensor, "M D"] | None
    """Decoder states at real positions only, row by row; the vocabulary layer turns each into
    logits for the word in `caption_targets`."""
    caption_targets: Int[Tensor, " M"] | None
    """The word that follows each of `caption_states`: w1 .. wn and [EOS] of each caption."""
    class_logits: Float[Tensor, "B classes"] | None
    """Logits of the optional classification head."""


class CoCa(nn.Module):
    """A Contrastive Captioner, as in the paper.

    Not stated there, so chosen here: pre-norm blocks with GELU and biases, no dropout, a norm
    behind each pooler, no projection where a tower's width equals `embed_dim`.
    """

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
            unimodal = self.unimodal_decoder(tokens)
            if contrastive:
                assert pooled is not None
                image_embedding = self._embed(pooled, self.image_projection)
                text_embedding = self._embed(
                    self.unimodal_decoder.embedding(unimodal, tokens), self.text_projection
                )
            if captioning:
                # The last two tokens of the longest caption, [EOS] and [CLS], predict nothing.
                decoded = self._decode(unimodal[:, :-2], image_tokens)
                real = self.predicts(tokens)[:, :-2]
                states, targets = decoded[real], tokens[:, 1:-1][real]
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
        states = self.unimodal_decoder(tokens)
        return self._embed(self.unimodal_decoder.embedding(states, tokens), self.text_projection)

    def image_tokens(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B Q D"]:
        """Gives the tokens that the decoder reads: the captioning pooler's output."""
        return self._image_tokens(self.image_encoder(images))

    def caption_logits(
        self, images: Float[Tensor, "B C height width"], tokens: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Gives the logits of the next word at every position, the plain way.

        Holds all B x T x V numbers at once: for inspection and tests, not for training.
        """
        states = self._decode(self.unimodal_decoder(tokens), self.image_tokens(images))
        return F.linear(states, self.vocabulary_weight)

    def predicts(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Marks the positions whose next token the captioning loss asks for: [BOS] and words."""
        text = self.config.text
        return (tokens != text.eos_id) & (tokens != text.cls_id) & (tokens != text.pad_id)

    @property
    def vocabulary_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from decoder states to word logits, tied to the input embedding or not."""
        if self.vocabulary is None:
            return self.unimodal_decoder.token_embedding.weight
        return self.vocabulary.weight

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """One over the temperature: the factor on the cosines of the contrastive loss."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Keeps the learned temperature within its range; call it after each optimiser step."""
        self.log_scale.clamp_(-math.log(HOTTEST), -math.log(COLDEST))

    @torch.no_grad()
    def initialise(self) -> None:
        """Sets every weight; the paper states none of this, so it follows CLIP.

        A linear layer starts normal with variance one over its inputs, so that a narrow model
        learns as fast as a wide one (a fixed 0.02, as in GPT-2, left a width of 192 far behind).
        Output layers of residual branches are scaled down by the square root of twice the depth,
        so that the residual stream does not grow with it.
        """
        if self.log_scale.is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        image, text = self.config.image, self.config.text
        text_layers = text.unimodal_layers + text.multimodal_layers
        for tower, depth in (
            (self.image_encoder, image.layers),
            (self.unimodal_decoder, text_layers),
            (self.multimodal_decoder, text_layers),
        ):
            for module in tower.modules():
                if isinstance(module, SelfAttention | CrossAttention):
                    module.out.weight.div_(math.sqrt(2 * depth))
                elif isinstance(module, MLP):
                    module.down.weight.div_(math.sqrt(2 * depth))
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

    def _image_tokens(self, encoded: Float[Tensor, "B P D"]) -> Float[Tensor, "B Q D"]:
        return encoded if self.captioning_pooler is None else self.captioning_pooler(encoded)

    def _pool(
        self, encoded: Float[Tensor, "B P D"], image_tokens: Float[Tensor, "B Q D"]
    ) -> Float[Tensor, "B D"]:
        cascade = self.config.pooler.kind == "cascade"
        return self.contrastive_pooler(image_tokens if cascade else encoded)[:, 0]

    def _decode(
        self, states: Float[Tensor, "B T D"], image_tokens: Float[Tensor, "B Q C"]
    ) -> Float[Tensor, "B T D"]:
        return self.multimodal_decoder(states, self.multimodal_decoder.read_image(image_tokens))

    def _embed(self, pooled: Float[Tensor, "B D"], projection: nn.Module) -> Float[Tensor, "B E"]:
        # Normalised in fp32: in half precision the length would be off by a percent.
        return F.normalize(projection(pooled).float(), dim=-1).to(pooled.dtype)

    def _classify(self, pooled: Float[Tensor, "B D"] | None) -> Float[Tensor, "B classes"]:
        assert pooled is not None
        assert self.classification_head is not None, "num_classes is 0: there is no head"
        return self.classification_head(pooled)


def _projection(width: int, embed_dim: int) -> nn.Module:
    return nn.Identity() if width == embed_dim else nn.Linear(width, embed_dim, bias=False)
