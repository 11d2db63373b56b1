"""Logits processors of exported models: suppressed tokens, words, repetitions and minimum length.

The counterpart of `coca.model.generation.logits_processors`. Tests compare both.

Dimensions: B images, K branches an image, V vocabulary, t tokens so far, prompt included.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64

from coca.model.generation.decoding_rules import NO_TOKEN, DecodingRules
from coca.model.generation.generation_config import GenerationConfig
from coca.processing.class_words import ClassGuide
from coca.processing.preprocess import TextSettings
from coca.processing.word_constraint import WordConstraint


def padded_prompts(prompts: Sequence[Sequence[int]]) -> Int64[np.ndarray, "B t"]:
    """Pad prompts at their start to the length of the longest."""
    longest = max(map(len, prompts), default=0)
    rows = [[NO_TOKEN] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    return np.array(rows, np.int64).reshape(len(prompts), longest)


class OnnxLogitsProcessors(DecodingRules):
    """Applies all logits processors of a generation config to next-token logits."""

    def __init__(
        self,
        decoding: GenerationConfig,
        text: TextSettings,
        constraint: WordConstraint | None = None,
        guide: ClassGuide | None = None,
    ) -> None:
        super().__init__(decoding, text.eos_id, text.suppressed, constraint, guide)

    def apply_(
        self,
        logits: Float32[np.ndarray, "B K V"],
        *,
        step: int,
        token_ids: Int64[np.ndarray, "B K t"],
        token_budget: Int64[np.ndarray, " B"],
    ) -> None:
        """Modify next-token logits, or their logarithms of probability, in place."""
        images, branches, width = logits.shape
        logits[..., self._suppressed] = -np.inf
        if self._decoding.repetition_penalty != 1:
            self._penalise_(logits, token_ids)
        generated = token_ids[:, :, token_ids.shape[2] - step :]
        if self._guide is not None:
            logits += self._guide.adjustments(generated)
        unfinished = np.zeros((images, branches), bool)
        if self._constraint is not None:
            states = self._constraint.states(generated.reshape(images * branches, step))
            remaining = (token_budget - step).repeat(branches)
            forbidden = self._constraint.forbidden(states, remaining, width=width)
            logits[forbidden.reshape(logits.shape)] = -np.inf
            unfinished = ~self._constraint.is_whole(states).reshape(images, branches)
        if self._decoding.no_repeat_ngram_size:
            self._forbid_repeats_(logits, token_ids, unfinished)
        if step < self._decoding.min_new_tokens:
            end = logits[..., self._eos].copy()
            logits[..., self._eos] = -np.inf
            # The end stays allowed where no other token is left.
            logits[..., self._eos] = np.where(logits.max(axis=2) == -np.inf, end, -np.inf)

    def _penalise_(
        self, logits: Float32[np.ndarray, "B K V"], token_ids: Int64[np.ndarray, "B K t"]
    ) -> None:
        penalty = self._decoding.repetition_penalty
        # A suppressed token is a valid index, and `NO_TOKEN` is not.
        tokens = np.where(token_ids == NO_TOKEN, self._suppressed[0], token_ids)
        scores = np.take_along_axis(logits, tokens, axis=2)
        scores = np.where(scores < 0, scores * penalty, scores / penalty)
        np.put_along_axis(logits, tokens, scores, axis=2)

    def _forbid_repeats_(
        self,
        logits: Float32[np.ndarray, "B K V"],
        token_ids: Int64[np.ndarray, "B K t"],
        unfinished: Bool[np.ndarray, "B K"],
    ) -> None:
        """Forbid tokens that would repeat an n-gram, except where a word is unfinished."""
        size, length = self._decoding.no_repeat_ngram_size, token_ids.shape[2]
        if length < size:
            return
        runs = np.lib.stride_tricks.sliding_window_view(token_ids, size, axis=2)
        latest = token_ids[:, :, None, length - size + 1 :]
        again = (runs[..., :-1] == latest).all(axis=3) & (runs != NO_TOKEN).all(axis=3)
        # A caption must not be left without a next token.
        again &= ~unfinished[:, :, None]
        tokens = np.where(again, runs[..., -1], self._suppressed[0])
        np.put_along_axis(logits, tokens, np.float32(-np.inf), axis=2)
