"""Logits processors: suppressed tokens, words, repetitions and minimum length.

Dimensions: B images, K branches an image, V vocabulary, t tokens so far, prompt included.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coca.model.generation.decoding_rules import NO_TOKEN, DecodingRules
from coca.model.generation.generation_config import GenerationConfig
from coca.model.openclip.openclip_config import TextConfig
from coca.processing.class_words import ClassGuide
from coca.processing.word_constraint import WordConstraint


class LogitsProcessors(DecodingRules):
    """Applies all logits processors of a generation config to next-token logits."""

    def __init__(
        self,
        decoding: GenerationConfig,
        text: TextConfig,
        constraint: WordConstraint | None = None,
        guide: ClassGuide | None = None,
    ) -> None:
        super().__init__(decoding, text.eos_id, text.suppress_tokens, constraint, guide)

    @property
    def uses_history(self) -> bool:
        """Whether any processor depends on earlier tokens."""
        decoding = self._decoding
        return (
            self._constraint is not None
            or decoding.repetition_penalty != 1
            or decoding.no_repeat_ngram_size > 0
        )

    def apply_(
        self,
        logits: Float[Tensor, "B K V"],
        *,
        step: int,
        token_ids: Int[Tensor, "B K t"],
        token_budget: Int[Tensor, " B"],
        normaliser: Float[Tensor, "B K"] | None = None,
    ) -> None:
        """Modify next-token logits in place."""
        logits[..., self._suppressed] = -torch.inf
        if self._decoding.repetition_penalty != 1:
            self._penalise_(logits, token_ids, normaliser)
        unfinished = None
        generated = token_ids[:, :, token_ids.shape[2] - step :]
        if self._guide is not None:
            adjustments = torch.from_numpy(self._guide.adjustments(generated.cpu().numpy()))
            logits += adjustments.to(logits.device)
        if self._constraint is not None:
            unfinished = self._constrain_words_(
                logits, self._constraint, generated, token_budget - step
            )
        if self._decoding.no_repeat_ngram_size:
            self._forbid_repeats_(logits, token_ids, unfinished)
        if step < self._decoding.min_new_tokens:
            self._forbid_end_(logits)

    def _constrain_words_(
        self,
        logits: Float[Tensor, "B K V"],
        constraint: WordConstraint,
        generated: Int[Tensor, "B K step"],
        remaining: Int[Tensor, " B"],
    ) -> Bool[Tensor, "B K"]:
        """Allow tokens of listed words only; return where a word is unfinished."""
        images, branches, width = logits.shape
        states = constraint.states(generated.flatten(0, 1).cpu().numpy())
        left = remaining.cpu().numpy().repeat(branches)
        forbidden = torch.from_numpy(constraint.forbidden(states, left, width=width))
        logits.masked_fill_(forbidden.to(logits.device).view(logits.shape), -torch.inf)
        unfinished = torch.from_numpy(~constraint.is_whole(states))
        return unfinished.to(logits.device).view(images, branches)

    def _forbid_end_(self, logits: Float[Tensor, "B K V"]) -> None:
        """Forbid the end token, where another token is left."""
        end = logits[..., self._eos].clone()
        logits[..., self._eos] = -torch.inf
        logits[..., self._eos] = end.where(logits.amax(dim=2) == -torch.inf, -torch.inf)

    def _penalise_(
        self,
        logits: Float[Tensor, "B K V"],
        token_ids: Int[Tensor, "B K t"],
        normaliser: Float[Tensor, "B K"] | None,
    ) -> None:
        penalty = self._decoding.repetition_penalty
        # A suppressed token is a valid index, and `NO_TOKEN` is not.
        tokens = torch.where(token_ids == NO_TOKEN, self._suppressed[0], token_ids)
        scores = logits.gather(2, tokens)
        if normaliser is not None:
            scores -= normaliser[:, :, None]
        scores = torch.where(scores < 0, scores * penalty, scores / penalty)
        if normaliser is not None:
            scores += normaliser[:, :, None]
        logits.scatter_(2, tokens, scores)

    def _forbid_repeats_(
        self,
        logits: Float[Tensor, "B K V"],
        token_ids: Int[Tensor, "B K t"],
        unfinished: Bool[Tensor, "B K"] | None,
    ) -> None:
        """Forbid tokens that would repeat an n-gram, except where a word is unfinished."""
        size = self._decoding.no_repeat_ngram_size
        if token_ids.shape[2] < size:
            return
        runs = token_ids.unfold(2, size, 1)
        latest = token_ids[:, :, None, token_ids.shape[2] - size + 1 :]
        again = (runs[..., :-1] == latest).all(dim=3) & (runs >= 0).all(dim=3)
        if unfinished is not None:
            # A caption must not be left without a next token.
            again &= ~unfinished[:, :, None]
        tokens = torch.where(again, runs[..., -1], self._suppressed[0])
        logits.scatter_(2, tokens, -torch.inf)
