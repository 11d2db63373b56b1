"""Beam search and diverse beam search, as in transformers v5.

Dimensions: B images, G beam groups, K beams per group, N beams of all groups, n the same before
the step (all groups start from one beam), C candidates, V vocabulary, P tokens of the longest
prompt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.model.generation.decoder_state import DecoderState, should_compact
from coca.model.generation.logits_processors import LogitsProcessors
from coca.runtime.class_words import guided_rank
from coca.runtime.generation_config import GeneratedSequence, GenerationConfig


@dataclass(frozen=True)
class _Candidates:
    """Continuations of the beams of one group, best first."""

    scores: Float[Tensor, "B C"]
    """Sums of log-probabilities after the logits processors; padded with minus infinity."""
    parents: Int[Tensor, "B C"]
    """The beam that each candidate continues, counted over all groups."""
    tokens: Int[Tensor, "B C"]
    """The next token of each candidate."""


class _BeamHypotheses:
    """The best finished captions of one image in one beam group."""

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
        groups, device = decoding.num_beam_groups, prompts.device
        self._size = decoding.beams // groups
        self._prompt = prompts.shape[1]
        self._hypotheses = [[_BeamHypotheses(self._size) for _ in range(groups)] for _ in prompts]
        self._open = torch.ones(len(prompts), groups, dtype=torch.bool, device=device)
        self._scores = torch.zeros(len(prompts), groups, 1, device=device)
        self._token_ids = prompts[:, None]
        self._log_ps = torch.zeros(self._token_ids.shape, device=device)

    def run(self) -> list[list[GeneratedSequence]]:
        """Return up to `num_return_sequences` distinct captions per image, best first."""
        pools = list(self._hypotheses)
        for step in range(int(self._token_budget.max())):
            parents, tokens = self._step(step)
            going = self._open.any(dim=1)
            if not bool(going.any()):
                break
            if should_compact(going):
                left = going.nonzero()[:, 0]
                self._reorder(left)
                parents, tokens = parents[left], tokens[left]
            self._state.step(tokens, parents)
        return [self._best(groups) for groups in pools]

    def _step(self, step: int) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]]:
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
        kept: list[_Candidates] = []
        for group in range(self._decoding.num_beam_groups):
            candidates = self._top_candidates(
                group, logits, normaliser, [earlier.tokens for earlier in kept]
            )
            ended = candidates.tokens == self._eos
            full = self._token_budget[:, None] == step + 1
            self._collect(group, candidates, ended | full, plain, normaliser, step)
            scores, indices = candidates.scores.masked_fill(ended, -torch.inf).topk(
                self._size, dim=1
            )
            kept.append(
                _Candidates(
                    scores,
                    candidates.parents.gather(1, indices),
                    candidates.tokens.gather(1, indices),
                )
            )
        parents = torch.cat([candidates.parents for candidates in kept], dim=1)
        tokens = torch.cat([candidates.tokens for candidates in kept], dim=1)
        self._scores = torch.stack([candidates.scores for candidates in kept], dim=1)
        self._update_open(step)
        gained = _log_p(plain, normaliser, parents, tokens)
        back = parents[:, :, None].expand(-1, -1, self._token_ids.shape[2])
        self._token_ids = torch.cat([self._token_ids.gather(1, back), tokens[:, :, None]], dim=2)
        self._log_ps = torch.cat([self._log_ps.gather(1, back), gained[:, :, None]], dim=2)
        return parents, tokens

    def _top_candidates(
        self,
        group: int,
        logits: Float[Tensor, "B n V"],
        normaliser: Float[Tensor, "B n"],
        taken: list[Int[Tensor, "B K"]],
    ) -> _Candidates:
        """Select 2K candidates of a group; one per beam may end, so at least K remain open."""
        beams = self._scores.shape[2]
        # All groups share one beam before the first step; later each group has its own beams.
        first = 0 if logits.shape[1] == 1 else group * beams
        own = slice(first, first + beams)
        logits = logits[:, own]
        if taken:
            tokens = torch.cat(taken, dim=1)
            penalty = torch.full(
                tokens.shape, self._decoding.diversity_penalty, device=tokens.device
            )
            penalties = torch.zeros_like(logits[:, 0]).scatter_add_(1, tokens, penalty)
            logits = logits - penalties[:, None]
        wanted, vocabulary = 2 * self._size, logits.shape[2]
        # Top-k within each beam first: far fewer numbers are normalized.
        best, tokens = logits.topk(min(wanted, vocabulary), dim=2)
        best = best + (self._scores[:, group] - normaliser[:, own])[:, :, None]
        scores, indices = best.flatten(1).topk(min(wanted, best[0].numel()), dim=1)
        parents = first + indices // best.shape[2]
        missing = (0, wanted - scores.shape[1])
        return _Candidates(
            F.pad(scores, missing, value=-torch.inf),
            F.pad(parents, missing, value=first),
            F.pad(tokens.flatten(1).gather(1, indices), missing, value=self._eos),
        )

    def _collect(
        self,
        group: int,
        candidates: _Candidates,
        ended: Bool[Tensor, "B C"],
        plain: Float[Tensor, "B n V"],
        normaliser: Float[Tensor, "B n"],
        step: int,
    ) -> None:
        """Add candidates that end at this step to the hypotheses, if they are in the top K."""
        within = slice(0, self._size)
        enter = (
            ended[:, within] & self._open[:, group, None] & candidates.scores[:, within].isfinite()
        )
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
            self._hypotheses[image][group].add(caption)

    def _update_open(self, step: int) -> None:
        """Close the searches whose open beams cannot enter the hypotheses any more."""
        device, penalty = self._scores.device, self._decoding.length_penalty
        worst_score = torch.tensor(
            [[pool.worst_score for pool in row] for row in self._hypotheses], device=device
        )
        length = torch.full_like(self._token_budget, step + 1)
        if self._decoding.early_stopping == "certain" and penalty > 0:
            # A sum of log-probabilities weighs least at the largest length.
            length = self._token_budget
        within_reach = self._scores[:, :, 0] / (length[:, None].float() ** penalty) > worst_score
        if self._decoding.early_stopping == "full":
            within_reach &= worst_score == -torch.inf
        self._open &= within_reach & (self._token_budget[:, None] > step + 1)

    def _reorder(self, left: Int[Tensor, " b"]) -> None:
        self._state.reorder(left)
        self._processors.keep(left)
        self._hypotheses = [self._hypotheses[image] for image in left.tolist()]
        self._token_budget, self._open, self._scores = (
            kept[left] for kept in (self._token_budget, self._open, self._scores)
        )
        self._token_ids, self._log_ps = self._token_ids[left], self._log_ps[left]

    def _best(self, groups: list[_BeamHypotheses]) -> list[GeneratedSequence]:
        captions = sorted(
            (caption for pool in groups for caption in pool.captions),
            key=lambda caption: -caption.rank,
        )
        # Groups may find the same caption.
        different = {(*caption.token_ids, caption.ended): caption for caption in captions[::-1]}
        best = sorted(different.values(), key=lambda caption: -caption.rank)
        return best[: self._decoding.num_return_sequences]


def _log_p(
    logits: Float[Tensor, "B n V"],
    normaliser: Float[Tensor, "B n"],
    parents: Int[Tensor, "B C"],
    tokens: Int[Tensor, "B C"],
) -> Float[Tensor, "B C"]:
    """Compute the model's log-probability of candidate tokens, without logits processors."""
    images = torch.arange(len(logits), device=logits.device)[:, None]
    return logits[images, parents, tokens] - normaliser.gather(1, parents)
