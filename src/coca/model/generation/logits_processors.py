"""What must not be written, and what should not, whichever way words are chosen.

Dimensions: B images, K branches an image, V vocabulary, t tokens so far, prompt included.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coca.model.captioner import TextConfig
from coca.model.generation.config import GenerationConfig

NO_TOKEN = -1
"""Fills up shorter rows of what was written; no token."""


class LogitsProcessors:
    """Changes the logits of the next word."""

    def __init__(self, decoding: GenerationConfig, text: TextConfig) -> None:
        self._decoding = decoding
        self._eos = text.eos_id
        self._never = list(text.suppress_tokens)

    @property
    def look_back(self) -> bool:
        """Whether any rule asks what was written."""
        return self._decoding.repetition_penalty != 1 or self._decoding.no_repeat_ngram_size > 0

    @property
    def reweigh(self) -> bool:
        """Whether any rule changes the logits of words that may still be written."""
        return self._decoding.repetition_penalty != 1

    def apply_(
        self,
        logits: Float[Tensor, "B K V"],
        *,
        step: int,
        written: Int[Tensor, "B K t"],
        normaliser: Float[Tensor, "B K"] | None = None,
    ) -> None:
        """Changes `logits` in place.

        Args:
            logits: Of the next word.
            step: Words behind the prompt so far.
            written: Prompt and words so far; looked at only if `look_back`. Prompts end where the
                words begin, and shorter ones have `NO_TOKEN` before them.
            normaliser: What makes log-probabilities of the logits if it is subtracted; None to
                penalise repetition on the logits as they are.
        """
        logits[..., self._never] = -torch.inf
        if self.reweigh:
            self._penalise_(logits, written, normaliser)
        if self._decoding.no_repeat_ngram_size:
            self._forbid_repeats_(logits, written)
        if step < self._decoding.min_new_tokens:
            logits[..., self._eos] = -torch.inf

    def _penalise_(
        self,
        logits: Float[Tensor, "B K V"],
        written: Int[Tensor, "B K t"],
        normaliser: Float[Tensor, "B K"] | None,
    ) -> None:
        penalty = self._decoding.repetition_penalty
        words = self._real(written)
        scores = logits.gather(2, words)
        if normaliser is not None:
            scores -= normaliser[:, :, None]
        scores = torch.where(scores < 0, scores * penalty, scores / penalty)
        if normaliser is not None:
            scores += normaliser[:, :, None]
        logits.scatter_(2, words, scores)

    def _forbid_repeats_(
        self, logits: Float[Tensor, "B K V"], written: Int[Tensor, "B K t"]
    ) -> None:
        size = self._decoding.no_repeat_ngram_size
        if written.shape[2] < size:
            return
        runs = written.unfold(2, size, 1)
        latest = written[:, :, None, written.shape[2] - size + 1 :]
        again = (runs[..., :-1] == latest).all(dim=3) & (runs >= 0).all(dim=3)
        words = torch.where(again, runs[..., -1], self._never[0])
        logits.scatter_(2, words, -torch.inf)

    def _real(self, written: Int[Tensor, "B K t"]) -> Int[Tensor, "B K t"]:
        """Puts a word that is never written in place of `NO_TOKEN`."""
        return torch.where(written == NO_TOKEN, self._never[0], written)
