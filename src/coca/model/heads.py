"""Classification heads around a CoCa of either architecture (CoCa, section 4.2 and appendix B).

A head is a further attentional pooler with a linear layer. It reads the tokens of the image
encoder, or the decoder's states of a prompt. It runs on the output of a forward pass, so one pass
serves captions and classes.

Dimensions: B samples, F images of a sample, P tokens of an image, S image tokens, C their width,
T text tokens, L states of the prompt, D width, K classes.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.coca import AttentionalPooler, CoCa, CoCaOutput
from coca.model.coca_config import HeadConfig
from coca.model.layers.packing import lengths_to_last
from coca.model.layers.transformer import Linear, init_linears_
from coca.model.text_decoder import Decoded


class AttentivePoolingHead(nn.Module):
    """A new pooler with one query and a linear layer (CoCa, section 4.2 and appendix B).

    The input norm is an addition: OpenCLIP's encoder returns tokens without a final norm. The
    linear layer starts at zero, so that all classes are equally likely.
    """

    def __init__(self, config: HeadConfig, *, image_width: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        reads_text = config.reads == "text"
        width = text_width if reads_text else image_width
        self.norm = nn.LayerNorm(width)
        self.pooler = AttentionalPooler(width, config.heads, 1)
        concatenated = config.images_per_sample if reads_text else 1
        self.linear = Linear(width * concatenated, len(config.classes))
        self.init_weights()

    def forward(
        self, tokens: Float[Tensor, "BF L D"], *, real: Bool[Tensor, "BF L"] | None = None
    ) -> Float[Tensor, "B K"]:
        """Compute the class logits of each sample."""
        images = self.config.images_per_sample
        if self.config.reads == "image":
            tokens = rearrange(tokens, "(B F) P D -> B (F P) D", F=images)
        pooled = self.pooler(self.norm(tokens), real=real)[:, 0]
        if self.config.reads == "text":
            pooled = rearrange(pooled, "(B F) D -> B (F D)", F=images)
        return self.linear(pooled)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every weight, as `CoCa.init_weights` does."""
        init_linears_(self)
        nn.init.normal_(self.pooler.queries)
        nn.init.zeros_(self.linear.weight)


def head_of(model: CoCa) -> AttentivePoolingHead:
    """Return the head of a model."""
    if not isinstance(model.head, AttentivePoolingHead):
        raise ConfigError(
            "this model has no head that answers; `coca finetune` gives it one, and `classify` "
            "chooses among any labels without"
        )
    return model.head


def head_for(model: CoCa, images: Tensor, *, with_captions: bool) -> AttentivePoolingHead:
    """Return the head of a model for a batch of images.

    Raises:
        ConfigError: The model has no head, or its number of images per sample does not fit the
            images or the losses of captions.
    """
    head = head_of(model)
    expected = head.config.images_per_sample
    given = images.shape[1] if images.ndim == 5 else 1
    if given != expected:
        raise ConfigError(f"the head reads {expected} images per sample, but got {given}")
    if expected > 1 and with_captions:
        raise ConfigError(
            f"a caption belongs to one image, but each sample has {expected}; set "
            "contrastive_weight and captioning_weight to 0"
        )
    return head


def logits_of(
    head: AttentivePoolingHead,
    output: CoCaOutput,
    prompt_lengths: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B K"]:
    """Compute class logits from the output of a forward pass.

    Args:
        head: The head of the model.
        output: Output with the decoder's states, if the head reads text.
        prompt_lengths: Prompt tokens of each caption, the first token included; a head with
            `reads="text"` sees these alone. None: all tokens.
    """
    if head.config.reads == "image":
        return head(output.encoded)
    assert output.decoded is not None, "this head needs the decoder's states"
    return _read(head, output.decoded, prompt_lengths)


def head_tokens(
    model: CoCa, images: Float[Tensor, "BF RGB height width"]
) -> Float[Tensor, "BF S C"]:
    """Compute the image tokens that the head, or the decoder before it, attends to."""
    if head_of(model).config.reads == "image":
        return model.encode(images).tokens
    return model.image_tokens(images)


def head_logits(
    model: CoCa,
    image_tokens: Float[Tensor, "BF S C"],
    tokens: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B K"]:
    """Compute the class logits from the output of `head_tokens`.

    Args:
        model: The model.
        image_tokens: Image tokens of all F images of the first sample, then of the next.
        tokens: Prompt of each sample, for a head with `reads="text"`.
    """
    head = head_of(model)
    if head.config.reads == "image":
        return head(image_tokens)
    assert tokens is not None, "this head needs tokens"
    tokens = tokens.repeat_interleave(head.config.images_per_sample, dim=0)
    return _read(head, model.decode(tokens, image_tokens), None)


def _read(
    head: AttentivePoolingHead, decoded: Decoded, prompt_lengths: Int[Tensor, " B"] | None
) -> Float[Tensor, "B K"]:
    """Run a head on the states of each prompt."""
    if prompt_lengths is None:
        lengths = lengths_to_last(decoded.real)
    else:
        lengths = prompt_lengths.repeat_interleave(head.config.images_per_sample)
    asked, is_asked = decoded.packing.pad_first(decoded.states, lengths)
    return head(asked, real=is_asked)
