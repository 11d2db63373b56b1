"""Classification heads around a captioner (CoCa, section 4.2 and appendix B).

A head reads the tokens of the image encoder, or the decoder's states of a prompt. It runs on the
output of a forward pass, so one pass serves captions and classes.

Dimensions: B samples, F images of a sample, S image tokens, C their width, T tokens, K classes.
"""

from jaxtyping import Float, Int
from torch import Tensor

from coca.core.errors import ConfigError
from coca.model.captioner import Captioner, CoCaOutput, Decoded
from coca.model.layers.packing import lengths_to_last
from coca.model.pooling import AttentivePoolingHead


def head_for(model: Captioner, images: Tensor, *, with_captions: bool) -> AttentivePoolingHead:
    """Return the head of a model for a batch of images.

    Raises:
        ConfigError: The model has no head, or its number of images per sample does not fit the
            images or the losses of captions.
    """
    if model.head is None:
        raise ConfigError("this model has no classification head; fine-tune one first")
    expected = model.head.config.images_per_sample
    given = images.shape[1] if images.ndim == 5 else 1
    if given != expected:
        raise ConfigError(f"the head reads {expected} images per sample, but got {given}")
    if expected > 1 and with_captions:
        raise ConfigError(
            f"a caption belongs to one image, but each sample has {expected}; set "
            "contrastive_weight and captioning_weight to 0"
        )
    return model.head


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


def class_logits(
    model: Captioner,
    images: Float[Tensor, "*B RGB height width"],
    tokens: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B K"]:
    """Compute the class logits of images; `tokens` is the prompt, if the head reads one."""
    head_for(model, images, with_captions=False)
    return head_logits(model, head_tokens(model, images.flatten(0, -4)), tokens)


def head_tokens(
    model: Captioner, images: Float[Tensor, "BF RGB height width"]
) -> Float[Tensor, "BF S C"]:
    """Compute the image tokens that the head, or the decoder before it, attends to."""
    assert model.head is not None
    if model.head.config.reads == "image":
        return model.encode(images).tokens
    return model.image_tokens(images)


def head_logits(
    model: Captioner,
    image_tokens: Float[Tensor, "BF S C"],
    tokens: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B K"]:
    """Compute the class logits from the output of `head_tokens`.

    Args:
        model: The model.
        image_tokens: Image tokens of all F images of the first sample, then of the next.
        tokens: Prompt of each sample, for a head with `reads="text"`.
    """
    assert model.head is not None
    if model.head.config.reads == "image":
        return model.head(image_tokens)
    assert tokens is not None, "this head needs tokens"
    tokens = tokens.repeat_interleave(model.head.config.images_per_sample, dim=0)
    return _read(model.head, model.decode(tokens, image_tokens), None)


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
