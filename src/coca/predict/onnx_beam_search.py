"""Beam search over the exported decoder.

The same search as `coca.model.generation.beam_search`. Tests compare both.

Dimensions: B images, K beams, k beams before the step, C candidates, V vocabulary, P tokens of the
longest prompt.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from coca.model.generation.generation_config import GeneratedSequence, GenerationConfig
from coca.predict.onnx_decoder import OnnxDecoderState
from coca.predict.onnx_logits_processors import OnnxLogitsProcessors
from coca.processing.class_words import guided_rank


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
    state: OnnxDecoderState,
    prompts: Int64[np.ndarray, "B P"],
    *,
    processors: OnnxLogitsProcessors,
    decoding: GenerationConfig,
    token_budget: Int64[np.ndarray, " B"],
    eos_id: int,
) -> list[list[GeneratedSequence]]:
    """Return up to `num_return_sequences` captions of each image, best first."""
    images = [_Beams(decoding.beams) for _ in prompts]
    going = np.arange(len(images))
    for step in range(int(token_budget.max())):
        log_ps = log_softmax(state.logits)
        plain = log_ps.copy() if processors.rescales else log_ps
        branches = log_ps.shape[1]
        generated = np.array([images[image].token_ids for image in going.tolist()], np.int64)
        generated = generated.reshape(len(going), branches, step)
        prefix = np.repeat(prompts[going, None], branches, axis=1)
        processors.apply_(
            log_ps,
            step=step,
            token_ids=np.concatenate([prefix, generated], axis=2),
            token_budget=token_budget[going],
        )
        parents = np.zeros((len(going), decoding.beams), np.int64)
        tokens = np.full((len(going), decoding.beams), eos_id, np.int64)
        for row, image in enumerate(going.tolist()):
            beams = images[image]
            if beams.is_open:
                parents[row], tokens[row] = _advance(
                    beams,
                    log_ps[row],
                    plain[row],
                    step + 1,
                    step + 1 == int(token_budget[image]),
                    eos_id,
                    decoding.length_penalty,
                    is_guided=processors.is_guided,
                )
        left = np.flatnonzero([images[image].is_open for image in going])
        if not len(left):
            break
        if len(left) < len(going):
            state.keep(left)
            processors.keep(left.tolist())
            going, parents, tokens = going[left], parents[left], tokens[left]
        state.step(tokens, parents)
    return [beams.finished[: decoding.num_return_sequences] for beams in images]


def _advance(
    beams: _Beams,
    log_ps: Float32[np.ndarray, "k V"],
    plain: Float32[np.ndarray, "k V"],
    length: int,
    is_last: bool,
    eos_id: int,
    length_penalty: float,
    *,
    is_guided: bool,
) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
    """Take one search step of an image; return the parent beams and their new tokens.

    The search goes by `log_ps`; `plain` has those of the model, without logits processors.
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
            if is_guided:
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
