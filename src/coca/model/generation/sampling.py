"""Greedy decoding and sampling with temperature, top-k and top-p (nucleus).

Dimensions: B images, K branches an image, V vocabulary, P tokens of the longest prompt.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coca.model.generation.decoder_state import DecoderState, should_compact
from coca.model.generation.decoding_rules import NO_TOKEN
from coca.model.generation.generation_config import GeneratedSequence, GenerationConfig
from coca.model.generation.logits_processors import LogitsProcessors
from coca.model.generation.random_streams import sample_streams

MIN_SORTED_TOKENS = 256
"""First number of likeliest tokens to sort for `top_p`; sorting the whole vocabulary is slow."""


class Sampler:
    """Chooses the next token of each branch from its logits."""

    def __init__(
        self,
        decoding: GenerationConfig,
        *,
        images: Sequence[int],
        steps: int,
        device: torch.device,
    ) -> None:
        """Draw the random numbers of all steps; `images` has a number of each image."""
        self._decoding = decoding
        count = decoding.num_return_sequences
        streams = sample_streams(decoding.seed, images, samples=count, steps=steps)
        # fp64, which MPS lacks: there the CPU samples.
        sampling_device = torch.device("cpu") if device.type == "mps" else device
        chance = torch.from_numpy(streams).flatten(0, 1).to(sampling_device)
        # The last stream is of the discarded branches.
        self._chance = torch.cat([chance, chance[:1]])

    def __call__(
        self, logits: Float[Tensor, "B K V"], *, rows: Int[Tensor, "B K"], step: int
    ) -> Int[Tensor, "B K"]:
        """Choose a token for each branch; `rows` are its sample's number among all of the batch."""
        if not self._decoding.sampled:
            return logits.argmax(dim=2)
        logits = logits / (self._decoding.temperature or 1.0)
        chance = self._chance[rows.to(self._chance.device), step][:, :, None]
        if self._decoding.top_k is None and self._decoding.top_p is None:
            return _draw(logits.softmax(dim=2), chance)[:, :, 0]
        weights, tokens = self._top_candidates(logits)
        return tokens.gather(2, _draw(weights, chance))[:, :, 0]

    def _top_candidates(
        self, logits: Float[Tensor, "B K V"]
    ) -> tuple[Float[Tensor, "B K some"], Int[Tensor, "B K some"]]:
        """Select the tokens to sample from, likeliest first, and their weights."""
        vocabulary, top_p = logits.shape[2], self._decoding.top_p or 1.0
        if self._decoding.top_k is not None:
            best, tokens = logits.topk(min(self._decoding.top_k, vocabulary), dim=2)
            return _nucleus(best.softmax(dim=2), top_p), tokens
        normaliser = logits.logsumexp(dim=2, keepdim=True)
        count = min(MIN_SORTED_TOKENS, vocabulary)
        while True:
            best, tokens = logits.topk(count, dim=2)
            weights = (best - normaliser).exp()
            if count == vocabulary or bool((weights.sum(dim=2) >= top_p).all()):
                return _nucleus(weights, top_p), tokens
            count = min(16 * count, vocabulary)


def sample(
    state: DecoderState,
    prompts: Int[Tensor, "B P"],
    *,
    processors: LogitsProcessors,
    decoding: GenerationConfig,
    images: Sequence[int],
    token_budget: Int[Tensor, " B"],
    eos_id: int,
) -> list[list[GeneratedSequence]]:
    """Generate `num_return_sequences` captions per image by greedy decoding or sampling.

    Returns:
        The captions of each image, best first.
    """
    batch, count, steps = len(prompts), decoding.num_return_sequences, int(token_budget.max())
    choose = Sampler(decoding, images=images, steps=steps, device=prompts.device)
    discard = batch * count
    # The last row collects the tokens of branches that have ended.
    tokens = torch.full((discard + 1, steps), NO_TOKEN, device=prompts.device)
    log_ps = torch.zeros(tokens.shape, device=prompts.device)
    rows = torch.arange(discard, device=prompts.device).view(batch, count)
    parents: Tensor | None = torch.zeros_like(rows)
    for step in range(steps):
        logits = state.logits
        normaliser = logits.logsumexp(dim=2, keepdim=True)
        plain = logits.clone() if processors.rescales else logits
        branches = logits.shape[1]
        token_ids = prompts[:, None].expand(-1, branches, -1)
        if processors.uses_history:
            token_ids = torch.cat([token_ids, tokens[rows[:, :branches], :step]], dim=2)
        processors.apply_(logits, step=step, token_ids=token_ids, token_budget=token_budget)
        shape = (-1, rows.shape[1], -1)
        chosen = choose(logits.expand(shape), rows=rows, step=step)
        tokens[rows, step] = chosen
        score = plain.expand(shape).gather(2, chosen[:, :, None]) - normaliser
        log_ps[rows, step] = score[:, :, 0]

        over = (chosen == eos_id) | (rows == discard) | (token_budget[:, None] == step + 1)
        open_branches = int((~over).sum(dim=1).max())
        if open_branches == 0:
            break
        rows = rows.masked_fill(over, discard)
        if open_branches < rows.shape[1]:
            # Open branches first; the batch keeps as many as the image with the most of them.
            order = over.int().argsort(dim=1, stable=True)[:, :open_branches]
            rows, chosen = rows.gather(1, order), chosen.gather(1, order)
            parents = order if parents is None else parents.gather(1, order)
        going = (rows != discard).any(dim=1)
        if should_compact(going):
            left = going.nonzero()[:, 0]
            state.reorder(left)
            prompts, token_budget, rows, chosen = (
                prompts[left],
                token_budget[left],
                rows[left],
                chosen[left],
            )
            parents = None if parents is None else parents[left]
        state.step(chosen, parents)
        parents = None
    captions = [
        _generated_sequence(row, scores, eos_id)
        for row, scores in zip(tokens[:-1].tolist(), log_ps[:-1].tolist(), strict=True)
    ]
    return [
        sorted(captions[first : first + count], key=lambda caption: -caption.rank)
        for first in range(0, discard, count)
    ]


def _generated_sequence(row: list[int], scores: list[float], eos_id: int) -> GeneratedSequence:
    length = row.index(NO_TOKEN) if NO_TOKEN in row else len(row)
    ended = length > 0 and row[length - 1] == eos_id
    return GeneratedSequence(
        token_ids=row[: length - ended],
        log_probabilities=scores[:length],
        rank=sum(scores[:length]),
        ended=ended,
    )


def _nucleus(weights: Float[Tensor, "B K some"], top_p: float) -> Float[Tensor, "B K some"]:
    """Zero the weights of tokens outside the nucleus; at least the likeliest token remains."""
    before = weights.cumsum(dim=2) - weights
    return weights.masked_fill(before >= top_p, 0.0)


def _draw(
    weights: Float[Tensor, "B K some"], chance: Float[Tensor, "B K 1"]
) -> Int[Tensor, "B K 1"]:
    """Sample an index by inverse transform: where the cumulative weights exceed `chance`."""
    # fp64: the sum has fifty thousand small terms.
    reached = weights.to(chance.device).double().cumsum(dim=2)
    indices = torch.searchsorted(reached, chance * reached[..., -1:], right=True)
    return indices.to(weights.device)
