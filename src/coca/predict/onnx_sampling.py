"""Greedy decoding and sampling over the exported decoder.

The counterpart of `coca.model.generation.sampling`, with the same random numbers. Tests compare
both.

Dimensions: B images, K samples an image, V vocabulary, P tokens of the longest prompt.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64

from coca.model.generation.generation_config import GeneratedSequence, GenerationConfig
from coca.model.generation.random_streams import sample_streams
from coca.predict.onnx_beam_search import log_softmax
from coca.predict.onnx_decoder import OnnxDecoderState
from coca.predict.onnx_logits_processors import OnnxLogitsProcessors


def sample(
    state: OnnxDecoderState,
    prompts: Int64[np.ndarray, "B P"],
    *,
    processors: OnnxLogitsProcessors,
    decoding: GenerationConfig,
    images: Sequence[int],
    token_budget: Int64[np.ndarray, " B"],
    eos_id: int,
) -> list[list[GeneratedSequence]]:
    """Generate `num_return_sequences` captions of each image, best first.

    `images` has a number of each image, for its random numbers.
    """
    batch, count, steps = len(prompts), decoding.num_return_sequences, int(token_budget.max())
    chance = sample_streams(decoding.seed, images, samples=count, steps=steps)
    tokens = np.zeros((batch, count, steps), np.int64)
    log_ps = np.zeros(tokens.shape)
    lengths = np.zeros((batch, count), np.int64)
    is_open = np.ones((batch, count), bool)
    going = np.arange(batch)
    for step in range(steps):
        branches = state.logits.shape[1]
        prefix = np.repeat(prompts[going, None], branches, axis=1)
        logits, plain = state.logits.copy(), log_softmax(state.logits)
        processors.apply_(
            logits,
            step=step,
            token_ids=np.concatenate([prefix, tokens[going, :branches, :step]], axis=2),
            token_budget=token_budget[going],
        )
        # The first step has one branch. Ended samples go on until all of their image have ended.
        shape = (len(going), count, logits.shape[2])
        chosen = _choose(np.broadcast_to(logits, shape), chance[going, :, step], decoding)
        tokens[going, :, step] = chosen
        plain = np.broadcast_to(plain, shape)
        log_ps[going, :, step] = np.take_along_axis(plain, chosen[..., None], axis=2)[..., 0]
        lengths[going] += is_open[going]
        is_open[going] &= (chosen != eos_id) & (token_budget[going] > step + 1)[:, None]
        left = np.flatnonzero(is_open[going].any(axis=1))
        if not len(left):
            break
        if len(left) < len(going):
            state.keep(left)
            going, chosen = going[left], chosen[left]
        parents = np.zeros(count, np.int64) if branches == 1 else np.arange(count)
        state.step(chosen, np.broadcast_to(parents, chosen.shape))
    return [
        sorted(
            (_sequence(*branch, eos_id) for branch in zip(*image, strict=True)),
            key=lambda caption: -caption.rank,
        )
        for image in zip(tokens.tolist(), log_ps.tolist(), lengths.tolist(), strict=True)
    ]


def _choose(
    logits: Float32[np.ndarray, "B K V"],
    chance: Float64[np.ndarray, "B K"],
    decoding: GenerationConfig,
) -> Int64[np.ndarray, "B K"]:
    """Choose the next token of each sample from its logits and its random number."""
    if not decoding.sampled:
        return logits.argmax(axis=2)
    weights = np.exp(log_softmax(logits / np.float32(decoding.temperature or 1.0)))
    if decoding.top_k is None and decoding.top_p is None:
        return _draw(weights, chance)
    tokens = (-logits).argsort(axis=2, kind="stable")[..., : decoding.top_k]
    weights = np.take_along_axis(weights, tokens, axis=2)
    weights /= weights.sum(axis=2, keepdims=True)
    before = weights.cumsum(axis=2) - weights
    weights = np.where(before < (decoding.top_p or 1.0), weights, 0)
    places = _draw(weights, chance)
    return np.take_along_axis(tokens, places[..., None], axis=2)[..., 0]


def _draw(
    weights: Float32[np.ndarray, "B K some"], chance: Float64[np.ndarray, "B K"]
) -> Int64[np.ndarray, "B K"]:
    """Sample an index by inverse transform: where the cumulative weights exceed `chance`."""
    # fp64: the sum has fifty thousand small terms.
    reached = weights.astype(np.float64).cumsum(axis=2)
    return (reached <= chance[..., None] * reached[..., -1:]).sum(axis=2)


def _sequence(ids: list[int], scores: list[float], length: int, eos_id: int) -> GeneratedSequence:
    ended = ids[length - 1] == eos_id
    return GeneratedSequence(
        token_ids=ids[: length - ended],
        log_probabilities=scores[:length],
        rank=sum(scores[:length]),
        ended=ended,
    )
