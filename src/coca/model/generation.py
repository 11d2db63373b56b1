"""Writing captions: greedy decoding with a key-value cache.

The image's keys and values are computed once; each new word costs one row per layer. Rows that
have ended leave the batch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.layers import KeyValueCache


@dataclass(frozen=True)
class Captions:
    """Decoded captions, one entry a picture."""

    token_ids: list[list[int]]
    """The words behind the prompt, without [BOS] and [EOS]."""
    log_probabilities: list[list[float]]
    """Natural logarithm of each word's probability, and of [EOS] where it was reached."""


@torch.inference_mode()
def greedy(
    model: CoCa,
    images: Float[Tensor, "B C height width"],
    *,
    prompt: Int[Tensor, " P"] | None = None,
    max_words: int | None = None,
) -> Captions:
    """Takes the most likely word at each step until [EOS].

    Args:
        model: In evaluation mode.
        images: Normalised pictures.
        prompt: Token ids that each caption begins with, [BOS] first; default [BOS] alone.
        max_words: Most words behind the prompt; default and at most what the context holds.

    Raises:
        ConfigError: The prompt fills the context, or does not begin with [BOS].
    """
    text = model.config.text
    if prompt is None:
        prompt = torch.tensor([text.bos_id])
    if len(prompt) == 0 or int(prompt[0]) != text.bos_id:
        raise ConfigError(f"a prompt begins with [BOS] ({text.bos_id}), not {prompt.tolist()[:1]}")
    # [EOS] and [CLS] need their places too: a caption must fit what the model was trained on.
    room = text.context_length - 2 - (len(prompt) - 1)
    if room < 1:
        raise ConfigError(
            f"a prompt of {len(prompt)} tokens leaves no room for words in context_length "
            f"{text.context_length}; shorten it to {text.context_length - 2} tokens at most"
        )
    steps = room if max_words is None else min(max_words, room)
    image = model.multimodal_decoder.read_image(model.image_tokens(images))
    unimodal = [KeyValueCache() for _ in range(text.unimodal_layers)]
    multimodal = [KeyValueCache() for _ in range(text.multimodal_layers)]

    batch = len(images)
    words: list[list[int]] = [[] for _ in range(batch)]
    scores: list[list[float]] = [[] for _ in range(batch)]
    alive = list(range(batch))
    tokens = prompt.to(images.device).expand(batch, -1)
    start = 0
    for _ in range(steps):
        states = model.unimodal_decoder(tokens, caches=unimodal, start=start)
        states = model.multimodal_decoder(states, image, caches=multimodal)
        start += tokens.shape[1]
        logits = F.linear(states[:, -1], model.vocabulary_weight).float()
        # These never follow a word, whatever an untrained model believes.
        logits[:, [text.pad_id, text.bos_id, text.cls_id]] = -torch.inf
        best, word = F.log_softmax(logits, dim=1).max(dim=1)
        going = (word != text.eos_id).tolist()
        for row, chosen, score, goes_on in zip(
            alive, word.tolist(), best.tolist(), going, strict=True
        ):
            scores[row].append(score)
            if goes_on:
                words[row].append(chosen)
        if not all(going):
            kept = [place for place, goes_on in enumerate(going) if goes_on]
            if not kept:
                break
            alive = [alive[place] for place in kept]
            rows = torch.tensor(kept, device=images.device)
            word = word[rows]
            image = [(keys[rows], values[rows]) for keys, values in image]
            for cache in (*unimodal, *multimodal):
                cache.keep(rows)
        tokens = word[:, None]
    return Captions(token_ids=words, log_probabilities=scores)
