"""Captions written word by word: the likeliest each time, or drawn by chance.

Dimensions: B images, K branches an image, V vocabulary, P tokens of the longest prompt.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coca.model.generation.config import GeneratedSequence, GenerationConfig
from coca.model.generation.decoder_state import DecoderState, should_compact
from coca.model.generation.logits_processors import NO_TOKEN, LogitsProcessors

SORTED_AT_FIRST = 256
"""Words that are sorted in the hope that `top_p` lies among them; to sort all is slow."""


class Sampler:
    """Picks the next word by its logits."""

    def __init__(self, decoding: GenerationConfig, *, steps: int, device: torch.device) -> None:
        self._decoding = decoding
        # Sample j of any image reads stream j, whatever else is in the batch. Of 32 bits, so that
        # rounding never makes a 1 of them.
        streams = [
            np.random.default_rng((decoding.seed, sample)).integers(2**32, size=steps)
            for sample in range(decoding.num_return_sequences)
        ]
        # fp64, which Apple's accelerators lack: there the CPU draws.
        place = torch.device("cpu") if device.type == "mps" else device
        self._chance = torch.tensor(np.stack(streams) / 2**32, device=place)

    def __call__(
        self, logits: Float[Tensor, "B K V"], *, samples: Int[Tensor, "B K"], step: int
    ) -> Int[Tensor, "B K"]:
        """Gives a word for each branch, of which `samples` tells the number of its sample."""
        if not self._decoding.sampled:
            return logits.argmax(dim=2)
        logits = logits / (self._decoding.temperature or 1.0)
        chance = self._chance[samples.to(self._chance.device), step][:, :, None]
        if self._decoding.top_k is None and self._decoding.top_p is None:
            return _drawn(logits.softmax(dim=2), chance)[:, :, 0]
        weights, words = self._likeliest(logits)
        return words.gather(2, _drawn(weights, chance))[:, :, 0]

    def _likeliest(
        self, logits: Float[Tensor, "B K V"]
    ) -> tuple[Float[Tensor, "B K some"], Int[Tensor, "B K some"]]:
        """The words that may be drawn, the likeliest first, and their weights."""
        vocabulary, top_p = logits.shape[2], self._decoding.top_p or 1.0
        if self._decoding.top_k is not None:
            best, words = logits.topk(min(self._decoding.top_k, vocabulary), dim=2)
            return _nucleus(best.softmax(dim=2), top_p), words
        normaliser = logits.logsumexp(dim=2, keepdim=True)
        count = min(SORTED_AT_FIRST, vocabulary)
        while True:
            best, words = logits.topk(count, dim=2)
            weights = (best - normaliser).exp()
            if count == vocabulary or bool((weights.sum(dim=2) >= top_p).all()):
                return _nucleus(weights, top_p), words
            count = min(16 * count, vocabulary)


def sample(
    drafts: DecoderState,
    prompts: Int[Tensor, "B P"],
    *,
    rules: LogitsProcessors,
    decoding: GenerationConfig,
    room: Int[Tensor, " B"],
    eos_id: int,
) -> list[list[GeneratedSequence]]:
    """Writes `num_return_sequences` captions an image, the best first.

    Args:
        drafts: What the model has read so far.
        prompts: What was read; shorter prompts have `NO_TOKEN` before them.
        rules: What must not be written.
        decoding: How words are chosen: the likeliest, or drawn.
        room: Most words behind the prompt of each image.
        eos_id: Ends a caption.
    """
    batch, count, steps = len(prompts), decoding.num_return_sequences, int(room.max())
    choose = Sampler(decoding, steps=steps, device=prompts.device)
    nowhere = batch * count
    # The last row takes what is written for branches that have ended.
    words = torch.full((nowhere + 1, steps), NO_TOKEN, device=prompts.device)
    log_ps = torch.zeros(words.shape, device=prompts.device)
    rows = torch.arange(nowhere, device=prompts.device).view(batch, count)
    parents: Tensor | None = torch.zeros_like(rows)
    for step in range(steps):
        logits = drafts.logits
        normaliser = logits.logsumexp(dim=2, keepdim=True)
        plain = logits.clone() if rules.reweigh else logits
        branches = logits.shape[1]
        written = prompts[:, None].expand(-1, branches, -1)
        if rules.look_back:
            written = torch.cat([written, words[rows[:, :branches], :step]], dim=2)
        rules.apply_(logits, step=step, written=written)
        shape = (-1, rows.shape[1], -1)
        chosen = choose(logits.expand(shape), samples=rows % count, step=step)
        words[rows, step] = chosen
        score = plain.expand(shape).gather(2, chosen[:, :, None]) - normaliser
        log_ps[rows, step] = score[:, :, 0]

        over = (chosen == eos_id) | (rows == nowhere) | (room[:, None] == step + 1)
        most = int((~over).sum(dim=1).max())
        if most == 0:
            break
        rows = rows.masked_fill(over, nowhere)
        if most < rows.shape[1]:
            # Living branches first: the others leave, as far as all images can spare some.
            order = over.int().argsort(dim=1, stable=True)[:, :most]
            rows, chosen = rows.gather(1, order), chosen.gather(1, order)
            parents = order if parents is None else parents.gather(1, order)
        going = (rows != nowhere).any(dim=1)
        if should_compact(going):
            left = going.nonzero()[:, 0]
            drafts.keep(left)
            prompts, room, rows, chosen = prompts[left], room[left], rows[left], chosen[left]
            parents = None if parents is None else parents[left]
        drafts.extend(chosen, parents)
        parents = None
    captions = [
        _written(row, scores, eos_id)
        for row, scores in zip(words[:-1].tolist(), log_ps[:-1].tolist(), strict=True)
    ]
    return [
        sorted(captions[first : first + count], key=lambda caption: -caption.rank)
        for first in range(0, nowhere, count)
    ]


def _written(row: list[int], scores: list[float], eos_id: int) -> GeneratedSequence:
    length = row.index(NO_TOKEN) if NO_TOKEN in row else len(row)
    ended = length > 0 and row[length - 1] == eos_id
    return GeneratedSequence(
        token_ids=row[: length - ended],
        log_probabilities=scores[:length],
        rank=sum(scores[:length]),
        ended=ended,
    )


def _nucleus(weights: Float[Tensor, "B K some"], top_p: float) -> Float[Tensor, "B K some"]:
    """Leaves out the words before which `top_p` is reached; at least the likeliest stays."""
    before = weights.cumsum(dim=2) - weights
    return weights.masked_fill(before >= top_p, 0.0)


def _drawn(
    weights: Float[Tensor, "B K some"], chance: Float[Tensor, "B K 1"]
) -> Int[Tensor, "B K 1"]:
    """The place where the weights, laid end to end, reach the share `chance` of their sum."""
    # fp64: fifty thousand small numbers are added up.
    reached = weights.to(chance.device).double().cumsum(dim=2)
    places = torch.searchsorted(reached, chance * reached[..., -1:], right=True)
    return places.to(weights.device)
