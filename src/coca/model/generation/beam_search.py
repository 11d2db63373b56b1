"""Beam search, as in transformers v5.

Dimensions: B images, K beams, k beams before the step (one at the first), C candidates,
V vocabulary, P tokens of the longest prompt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.model.generation.decoder_state import DecoderState, should_compact
from coca.model.generation.generation_config import GeneratedSequence, GenerationConfig
from coca.model.generation.logits_processors import LogitsProcessors
from coca.processing.class_words import guided_rank


@dataclass(frozen=True)
class _Candidates:
    """Continuations of the beams, best first."""

    scores: Float[Tensor, "B C"]
    """Sums of log-probabilities after the logits processors; padded with minus infinity."""
    parents: Int[Tensor, "B C"]
    """The beam that each candidate continues."""
    tokens: Int[Tensor, "B C"]
    """The next token of each candidate."""


class _BeamHypotheses:
    """The best finished captions of one image."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.captions: list[GeneratedSequence] = []

    def add(self, caption: GeneratedSequence) -> None:
        """Add a caption if it is among the best so far."""
        better = sum(other.rank >= caption.rank for other in self.captions)
        self.captions.insert(better, caption)
        del self.captions[self._size :]

    @property
    def worst_score(self) -> float:
        """The rank that a new caption must exceed."""
        return self.captions[-1].rank if len(self.captions) == self._size else -torch.inf


class BeamSearch:
    """One beam search over a batch of images."""

    def __init__(
        self,
        state: DecoderState,
        prompts: Int[Tensor, "B P"],
        *,
        processors: LogitsProcessors,
        decoding: GenerationConfig,
        token_budget: Int[Tensor, " B"],
        eos_id: int,
    ) -> None:
        """Initialize the beams; arguments are those of `sampling.sample`."""
        self._state, self._processors, self._decoding = state, processors, decoding
        self._token_budget, self._eos = token_budget, eos_id
        device = prompts.device
        self._size = decoding.beams
        self._prompt = prompts.shape[1]
        self._hypotheses = [_BeamHypotheses(self._size) for _ in prompts]
        self._open = torch.ones(len(prompts), dtype=torch.bool, device=device)
        self._scores = torch.zeros(len(prompts), 1, device=device)
        self._token_ids = prompts[:, None]
        self._log_ps = torch.zeros(self._token_ids.shape, device=device)

    def run(self) -> list[list[GeneratedSequence]]:
        """Return up to `num_return_sequences` distinct captions per image, best first."""
        images = list(self._hypotheses)
        for step in range(int(self._token_budget.max())):
            parents, tokens = self._step(step)
            if not bool(self._open.any()):
                break
            if should_compact(self._open):
                left = self._open.nonzero()[:, 0]
                self._reorder(left)
                parents, tokens = parents[left], tokens[left]
            self._state.step(tokens, parents)
        return [image.captions[: self._decoding.num_return_sequences] for image in images]

    def _step(self, step: int) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"]]:
        """Take one search step; return the parent beams and their new tokens."""
        logits = self._state.logits
        normaliser = logits.logsumexp(dim=2)
        plain = logits.clone() if self._processors.rescales else logits
        self._processors.apply_(
            logits,
            step=step,
            token_ids=self._token_ids,
            token_budget=self._token_budget,
            normaliser=normaliser,
        )
        candidates = self._top_candidates(logits, normaliser)
        ended = candidates.tokens == self._eos
        full = self._token_budget[:, None] == step + 1
        self._collect(candidates, ended | full, plain, normaliser, step)
        open_scores = candidates.scores.masked_fill(ended, -torch.inf)
        self._scores, indices = open_scores.topk(self._size, dim=1)
        parents = candidates.parents.gather(1, indices)
        tokens = candidates.tokens.gather(1, indices)
        self._update_open(step)
        gained = _log_p(plain, normaliser, parents, tokens)
        back = parents[:, :, None].expand(-1, -1, self._token_ids.shape[2])
        self._token_ids = torch.cat([self._token_ids.gather(1, back), tokens[:, :, None]], dim=2)
        self._log_ps = torch.cat([self._log_ps.gather(1, back), gained[:, :, None]], dim=2)
        return parents, tokens

    def _top_candidates(
        self, logits: Float[Tensor, "B k V"], normaliser: Float[Tensor, "B k"]
    ) -> _Candidates:
        """Select 2K candidates; one per beam may end, so at least K remain open."""
        wanted, vocabulary = 2 * self._size, logits.shape[2]
        # Top-k within each beam first: far fewer numbers are normalized.
        best, tokens = logits.topk(min(wanted, vocabulary), dim=2)
        best = best + (self._scores - normaliser)[:, :, None]
        scores, indices = best.flatten(1).topk(min(wanted, best[0].numel()), dim=1)
        parents = indices // best.shape[2]
        missing = (0, wanted - scores.shape[1])
        return _Candidates(
            F.pad(scores, missing, value=-torch.inf),
            F.pad(parents, missing),
            F.pad(tokens.flatten(1).gather(1, indices), missing, value=self._eos),
        )

    def _collect(
        self,
        candidates: _Candidates,
        ended: Bool[Tensor, "B C"],
        plain: Float[Tensor, "B k V"],
        normaliser: Float[Tensor, "B k"],
        step: int,
    ) -> None:
        """Add candidates that end at this step to the hypotheses, if they are in the top K."""
        within = slice(0, self._size)
        enter = ended[:, within] & self._open[:, None] & candidates.scores[:, within].isfinite()
        if not bool(enter.any()):
            return
        gained = _log_p(plain, normaliser, candidates.parents, candidates.tokens)
        for image, index in enter.nonzero().tolist():
            beam, token = (
                int(candidates.parents[image, index]),
                int(candidates.tokens[image, index]),
            )
            ids = [*self._token_ids[image, beam, self._prompt :].tolist(), token]
            log_ps = self._log_ps[image, beam, self._prompt :].tolist()
            is_end = token == self._eos
            log_ps.append(float(gained[image, index]))
            score = float(candidates.scores[image, index])
            length, penalty = float(step + 1), self._decoding.length_penalty
            if self._processors.is_guided:
                plain_sum = sum(log_ps)
                rank = guided_rank(plain_sum, score - plain_sum, length, penalty)
            else:
                rank = score / length**penalty
            caption = GeneratedSequence(
                token_ids=ids[: len(ids) - is_end],
                log_probabilities=log_ps,
                rank=rank,
                ended=is_end,
            )
            self._hypotheses[image].add(caption)

    def _update_open(self, step: int) -> None:
        """Close the searches whose open beams cannot enter the hypotheses any more."""
        worst_score = torch.tensor(
            [image.worst_score for image in self._hypotheses], device=self._scores.device
        )
        length = torch.full_like(self._token_budget, step + 1).float()
        best_score = self._scores[:, 0] / length**self._decoding.length_penalty
        self._open &= (best_score > worst_score) & (self._token_budget > step + 1)

    def _reorder(self, left: Int[Tensor, " b"]) -> None:
        self._state.reorder(left)
        self._processors.keep(left.tolist())
        self._hypotheses = [self._hypotheses[image] for image in left.tolist()]
        self._token_budget, self._open, self._scores = (
            kept[left] for kept in (self._token_budget, self._open, self._scores)
        )
        self._token_ids, self._log_ps = self._token_ids[left], self._log_ps[left]


def _log_p(
    logits: Float[Tensor, "B k V"],
    normaliser: Float[Tensor, "B k"],
    parents: Int[Tensor, "B C"],
    tokens: Int[Tensor, "B C"],
) -> Float[Tensor, "B C"]:
    """Compute the model's log-probability of candidate tokens, without logits processors."""
    images = torch.arange(len(logits), device=logits.device)[:, None]
    return logits[images, parents, tokens] - normaliser.gather(1, parents)
