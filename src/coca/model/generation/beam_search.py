"""Beam search: the likeliest few captions of every step go on (as in transformers' v5).

Dimensions: B images, G groups of beams, K beams a group, N beams of all groups, n the same before
the step (all groups start from one beam), C ways to go on, V vocabulary, P tokens of the longest
prompt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.model.generation.config import GeneratedSequence, GenerationConfig
from coca.model.generation.decoder_state import DecoderState, should_compact
from coca.model.generation.logits_processors import LogitsProcessors


@dataclass(frozen=True)
class _Candidates:
    """Ways to go on, best first."""

    scores: Float[Tensor, "B C"]
    """Sums of log-probabilities as the rules leave them; minus infinity fills up the row."""
    parents: Int[Tensor, "B C"]
    """Beams that they go on from, counted over all groups."""
    words: Int[Tensor, "B C"]


class _BeamHypotheses:
    """The best captions of one image that have ended in one group."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.captions: list[GeneratedSequence] = []

    def add(self, caption: GeneratedSequence) -> None:
        """Takes it in if it is among the best so far."""
        better = sum(other.rank >= caption.rank for other in self.captions)
        self.captions.insert(better, caption)
        del self.captions[self._size :]

    @property
    def worst_score(self) -> float:
        """The rank that the next must beat."""
        return self.captions[-1].rank if len(self.captions) == self._size else -torch.inf


class BeamSearch:
    """One search for the likeliest captions of some images."""

    def __init__(
        self,
        drafts: DecoderState,
        prompts: Int[Tensor, "B P"],
        *,
        rules: LogitsProcessors,
        decoding: GenerationConfig,
        room: Int[Tensor, " B"],
        eos_id: int,
    ) -> None:
        """Takes the same as `sampling.sample`."""
        self._drafts, self._rules, self._decoding = drafts, rules, decoding
        self._room, self._eos = room, eos_id
        groups, device = decoding.num_beam_groups, prompts.device
        self._size = decoding.beams // groups
        self._prompt = prompts.shape[1]
        self._pools = [[_BeamHypotheses(self._size) for _ in range(groups)] for _ in prompts]
        self._open = torch.ones(len(prompts), groups, dtype=torch.bool, device=device)
        self._scores = torch.zeros(len(prompts), groups, 1, device=device)
        self._written = prompts[:, None]
        self._log_ps = torch.zeros(self._written.shape, device=device)

    def run(self) -> list[list[GeneratedSequence]]:
        """Gives up to `num_return_sequences` captions an image, best first and no two the same."""
        pools = list(self._pools)
        for step in range(int(self._room.max())):
            parents, words = self._choose(step)
            going = self._open.any(dim=1)
            if not bool(going.any()):
                break
            if should_compact(going):
                left = going.nonzero()[:, 0]
                self._keep(left)
                parents, words = parents[left], words[left]
            self._drafts.extend(words, parents)
        return [self._best(groups) for groups in pools]

    def _choose(self, step: int) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]]:
        """Takes one step: gives the beams to go on from, and their new words."""
        logits = self._drafts.logits
        normaliser = logits.logsumexp(dim=2)
        plain = logits.clone() if self._rules.reweigh else logits
        self._rules.apply_(logits, step=step, written=self._written, normaliser=normaliser)
        kept: list[_Candidates] = []
        for group in range(self._decoding.num_beam_groups):
            ways = self._likeliest(group, logits, normaliser, [earlier.words for earlier in kept])
            ended = ways.words == self._eos
            full = self._room[:, None] == step + 1
            self._collect(group, ways, ended | full, plain, normaliser, step)
            scores, places = ways.scores.masked_fill(ended, -torch.inf).topk(self._size, dim=1)
            kept.append(
                _Candidates(scores, ways.parents.gather(1, places), ways.words.gather(1, places))
            )
        parents = torch.cat([ways.parents for ways in kept], dim=1)
        words = torch.cat([ways.words for ways in kept], dim=1)
        self._scores = torch.stack([ways.scores for ways in kept], dim=1)
        self._close(step)
        gained = _log_p(plain, normaliser, parents, words)
        back = parents[:, :, None].expand(-1, -1, self._written.shape[2])
        self._written = torch.cat([self._written.gather(1, back), words[:, :, None]], dim=2)
        self._log_ps = torch.cat([self._log_ps.gather(1, back), gained[:, :, None]], dim=2)
        return parents, words

    def _likeliest(
        self,
        group: int,
        logits: Float[Tensor, "B n V"],
        normaliser: Float[Tensor, "B n"],
        taken: list[Int[Tensor, "B K"]],
    ) -> _Candidates:
        """The best two ways a beam; one of each beam may end, so that enough go on."""
        before = self._scores.shape[2]
        # Before the first step one beam is that of all groups; later each has its own.
        first = 0 if logits.shape[1] == 1 else group * before
        own = slice(first, first + before)
        logits = logits[:, own]
        if taken:
            words = torch.cat(taken, dim=1)
            penalty = torch.full(words.shape, self._decoding.diversity_penalty, device=words.device)
            crowd = torch.zeros_like(logits[:, 0]).scatter_add_(1, words, penalty)
            logits = logits - crowd[:, None]
        wanted, vocabulary = 2 * self._size, logits.shape[2]
        # The best of each beam first: far fewer numbers then need to be normalised.
        best, words = logits.topk(min(wanted, vocabulary), dim=2)
        best = best + (self._scores[:, group] - normaliser[:, own])[:, :, None]
        scores, places = best.flatten(1).topk(min(wanted, best[0].numel()), dim=1)
        parents = first + places // best.shape[2]
        missing = (0, wanted - scores.shape[1])
        return _Candidates(
            F.pad(scores, missing, value=-torch.inf),
            F.pad(parents, missing, value=first),
            F.pad(words.flatten(1).gather(1, places), missing, value=self._eos),
        )

    def _collect(
        self,
        group: int,
        ways: _Candidates,
        ended: Bool[Tensor, "B C"],
        plain: Float[Tensor, "B n V"],
        normaliser: Float[Tensor, "B n"],
        step: int,
    ) -> None:
        """Puts captions that end here into their pool, if they lie within the beams."""
        within = slice(0, self._size)
        enter = ended[:, within] & self._open[:, group, None] & ways.scores[:, within].isfinite()
        if not bool(enter.any()):
            return
        gained = _log_p(plain, normaliser, ways.parents, ways.words)
        for picture, place in enter.nonzero().tolist():
            beam, word = int(ways.parents[picture, place]), int(ways.words[picture, place])
            ids = [*self._written[picture, beam, self._prompt :].tolist(), word]
            log_ps = self._log_ps[picture, beam, self._prompt :].tolist()
            length = float(step + 1) ** self._decoding.length_penalty
            is_end = word == self._eos
            caption = GeneratedSequence(
                token_ids=ids[: len(ids) - is_end],
                log_probabilities=[*log_ps, float(gained[picture, place])],
                rank=float(ways.scores[picture, place]) / length,
                ended=is_end,
            )
            self._pools[picture][group].add(caption)

    def _close(self, step: int) -> None:
        """Ends the search where no running caption is going to get into the pool."""
        device, penalty = self._scores.device, self._decoding.length_penalty
        worst_score = torch.tensor(
            [[pool.worst_score for pool in row] for row in self._pools], device=device
        )
        length = torch.full_like(self._room, step + 1)
        if self._decoding.early_stopping == "certain" and penalty > 0:
            # A sum of log-probabilities weighs least at the largest length.
            length = self._room
        within_reach = self._scores[:, :, 0] / (length[:, None].float() ** penalty) > worst_score
        if self._decoding.early_stopping == "full":
            within_reach &= worst_score == -torch.inf
        self._open &= within_reach & (self._room[:, None] > step + 1)

    def _keep(self, left: Int[Tensor, " b"]) -> None:
        self._drafts.keep(left)
        self._pools = [self._pools[picture] for picture in left.tolist()]
        self._room, self._open, self._scores = (
            kept[left] for kept in (self._room, self._open, self._scores)
        )
        self._written, self._log_ps = self._written[left], self._log_ps[left]

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
    words: Int[Tensor, "B C"],
) -> Float[Tensor, "B C"]:
    """The model's own log-probability of some words."""
    pictures = torch.arange(len(logits), device=logits.device)[:, None]
    return logits[pictures, parents, words] - normaliser.gather(1, parents)
