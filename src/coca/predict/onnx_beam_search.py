"""Beam search over the exported decoder; one beam is greedy decoding.

The same search as `coca.model.generation.beam_search`. Tests compare both.

Dimensions: B images, K beams, k beams before the step, C candidates, V vocabulary, t tokens so far.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64

from coca.model.generation.generation_config import GeneratedSequence
from coca.predict.onnx_decoder import DecoderState
from coca.processing.class_words import guided_rank
from coca.processing.preprocess import TextSettings
from coca.processing.word_constraint import WordConstraint


class _Beams:
    """Open beams and finished captions of one image."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.scores = np.zeros(1)
        self.token_ids: list[tuple[int, ...]] = [()]
        self.log_ps: list[tuple[float, ...]] = [()]
        self.finished: list[GeneratedSequence] = []
        self.is_open = True

    def add(self, caption: GeneratedSequence) -> None:
        """Add a finished caption if it is among the best so far."""
        better = sum(other.rank >= caption.rank for other in self.finished)
        self.finished.insert(better, caption)
        del self.finished[self.size :]

    @property
    def worst_score(self) -> float:
        """The rank that a new caption must exceed."""
        return self.finished[-1].rank if len(self.finished) == self.size else -np.inf


def beam_search(
    state: DecoderState,
    budgets: Sequence[int],
    text: TextSettings,
    *,
    num_beams: int,
    length_penalty: float,
    constraint: WordConstraint | None = None,
    probabilities: Float32[np.ndarray, "B classes"] | None = None,
) -> list[list[GeneratedSequence]]:
    """Return the finished captions of each image, best first."""
    images = [_Beams(num_beams) for _ in budgets]
    going = np.arange(len(images))
    guide = None
    if constraint is not None and probabilities is not None and len(images) and num_beams > 1:
        guide = constraint.guide(probabilities, width=state.logits.shape[2])
    for step in range(max(budgets, default=0)):
        log_ps = log_softmax(state.logits)
        plain = log_ps.copy() if guide is not None else log_ps
        log_ps[..., list(text.suppressed)] = -np.inf
        if constraint is not None:
            branches, width = log_ps.shape[1:]
            token_ids = np.array([images[image].token_ids for image in going.tolist()], np.int64)
            token_ids = token_ids.reshape(len(going), branches, step)
            if guide is not None:
                log_ps += guide.adjustments(token_ids)
            remaining = [budgets[image] - step for image in going.tolist()]
            states = constraint.states(token_ids.reshape(len(going) * branches, step))
            forbidden = constraint.forbidden(
                states, np.array(remaining, np.int64).repeat(branches), width=width
            )
            log_ps[forbidden.reshape(log_ps.shape)] = -np.inf
        parents = np.zeros((len(going), num_beams), np.int64)
        tokens = np.full((len(going), num_beams), text.eos_id, np.int64)
        for row, image in enumerate(going.tolist()):
            beams = images[image]
            if beams.is_open:
                is_last = step + 1 == budgets[image]
                own = log_ps[row]
                parents[row], tokens[row] = _advance(
                    beams,
                    own,
                    own if guide is None else plain[row],
                    step + 1,
                    is_last,
                    text.eos_id,
                    length_penalty,
                )
        left = np.flatnonzero([images[image].is_open for image in going])
        if not len(left):
            break
        if len(left) < len(going):
            state.keep(left)
            if guide is not None:
                guide.keep(left.tolist())
            going, parents, tokens = going[left], parents[left], tokens[left]
        state.step(tokens, parents)
    return [beams.finished for beams in images]


def _advance(
    beams: _Beams,
    log_ps: Float32[np.ndarray, "k V"],
    plain: Float32[np.ndarray, "k V"],
    length: int,
    is_last: bool,
    eos_id: int,
    length_penalty: float,
) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
    """Take one search step of an image; return the parent beams and their new tokens.

    The search goes by `log_ps`; `plain` has those of the model, the same array without a guide.
    """
    size = beams.size
    scores, parents, tokens = _top_candidates(beams.scores, log_ps, 2 * size)
    chosen: list[int] = []
    for index, (score, parent, token) in enumerate(zip(scores, parents, tokens, strict=True)):
        ended = token == eos_id
        if (ended or is_last) and index < size and np.isfinite(score):
            ids = beams.token_ids[parent] if ended else (*beams.token_ids[parent], int(token))
            gained = float(plain[parent, token])
            log_probabilities = [*beams.log_ps[parent], gained]
            rank = float(score) / float(length) ** length_penalty
            if plain is not log_ps:
                total = sum(log_probabilities)
                rank = guided_rank(total, float(score) - total, float(length), length_penalty)
            beams.add(GeneratedSequence(list(ids), log_probabilities, rank, ended=bool(ended)))
        if not ended and len(chosen) < size:
            chosen.append(index)
    # A small vocabulary may have fewer candidates than beams.
    valid = len(chosen)
    chosen += chosen[:1] * (size - valid) if chosen else [0] * size
    parents, tokens = parents[chosen], tokens[chosen]
    kept = scores[chosen]
    kept[valid:] = -np.inf
    pairs = list(zip(parents.tolist(), tokens.tolist(), strict=True))
    ids, gains = beams.token_ids, beams.log_ps
    beams.token_ids = [(*ids[parent], token) for parent, token in pairs]
    beams.log_ps = [(*gains[parent], float(plain[parent, token])) for parent, token in pairs]
    beams.scores = kept
    within_reach = kept[0] / float(length) ** length_penalty > beams.worst_score
    beams.is_open = bool(within_reach) and not is_last
    return parents, tokens


def _top_candidates(
    scores: Float64[np.ndarray, " k"], log_ps: Float32[np.ndarray, "k V"], count: int
) -> tuple[Float64[np.ndarray, " C"], Int64[np.ndarray, " C"], Int64[np.ndarray, " C"]]:
    """Return the best continuations of all beams: scores, parents and tokens, best first."""
    totals = (scores[:, None] + log_ps).ravel()
    count = min(count, len(totals))
    best = np.argpartition(-totals, count - 1)[:count] if count < len(totals) else np.arange(count)
    best = best[np.argsort(-totals[best], kind="stable")]
    parents, tokens = np.divmod(best, log_ps.shape[1])
    return totals[best], parents, tokens


def log_softmax(logits: Float32[np.ndarray, "*B V"]) -> Float32[np.ndarray, "*B V"]:
    """Compute log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
