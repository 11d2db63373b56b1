"""Logits processors: suppressed tokens, repetition penalty, n-gram blocking, minimum length.

Dimensions: B images, K branches an image, V vocabulary, t tokens so far, prompt included.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coca.model.captioner import TextConfig
from coca.runtime.generation_config import GenerationConfig

NO_TOKEN = -1
"""Padding of shorter rows of token ids; not a token."""


class LogitsProcessors:
    """Applies all logits processors of a generation config to next-token logits."""

    def __init__(self, decoding: GenerationConfig, text: TextConfig) -> None:
        self._decoding = decoding
        self._eos = text.eos_id
        self._suppressed = list(text.suppress_tokens)

    @property
    def uses_history(self) -> bool:
        """Whether any processor depends on earlier tokens."""
        return self._decoding.repetition_penalty != 1 or self._decoding.no_repeat_ngram_size > 0

    @property
    def rescales(self) -> bool:
        """Whether any processor changes the logits of tokens that are not suppressed."""
        return self._decoding.repetition_penalty != 1

    def apply_(
        self,
        logits: Float[Tensor, "B K V"],
        *,
        step: int,
        token_ids: Int[Tensor, "B K t"],
        normaliser: Float[Tensor, "B K"] | None = None,
    ) -> None:
        """Modify next-token logits in place.

        Args:
            logits: Next-token logits.
            step: Number of tokens generated so far.
            token_ids: Prompt and generated tokens; read only if `uses_history`. Shorter prompts
                are left-padded with `NO_TOKEN`.
            normaliser: Log-sum-exp of the logits, for a repetition penalty on log-probabilities.
                None: the penalty applies to the logits.
        """
        logits[..., self._suppressed] = -torch.inf
        if self.rescales:
            self._penalise_(logits, token_ids, normaliser)
        if self._decoding.no_repeat_ngram_size:
            self._forbid_repeats_(logits, token_ids)
        if step < self._decoding.min_new_tokens:
            logits[..., self._eos] = -torch.inf

    def _penalise_(
        self,
        logits: Float[Tensor, "B K V"],
        token_ids: Int[Tensor, "B K t"],
        normaliser: Float[Tensor, "B K"] | None,
    ) -> None:
        penalty = self._decoding.repetition_penalty
        tokens = self._replace_padding(token_ids)
        scores = logits.gather(2, tokens)
        if normaliser is not None:
            scores -= normaliser[:, :, None]
        scores = torch.where(scores < 0, scores * penalty, scores / penalty)
        if normaliser is not None:
            scores += normaliser[:, :, None]
        logits.scatter_(2, tokens, scores)

    def _forbid_repeats_(
        self, logits: Float[Tensor, "B K V"], token_ids: Int[Tensor, "B K t"]
    ) -> None:
        size = self._decoding.no_repeat_ngram_size
        if token_ids.shape[2] < size:
            return
        runs = token_ids.unfold(2, size, 1)
        latest = token_ids[:, :, None, token_ids.shape[2] - size + 1 :]
        again = (runs[..., :-1] == latest).all(dim=3) & (runs >= 0).all(dim=3)
        tokens = torch.where(again, runs[..., -1], self._suppressed[0])
        logits.scatter_(2, tokens, -torch.inf)

    def _replace_padding(self, token_ids: Int[Tensor, "B K t"]) -> Int[Tensor, "B K t"]:
        """Replace `NO_TOKEN` by a suppressed token, which is a valid index."""
        return torch.where(token_ids == NO_TOKEN, self._suppressed[0], token_ids)
