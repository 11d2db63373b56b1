"""Score captions: log p(text | image) for pairs of images and texts.

The unimodal decoder runs once per text, for all images. The multimodal decoder processes several
texts of an image in one row, so that the image's keys and values are stored once.

Dimensions: N images, B images of a chunk, M texts, m texts of a group, T tokens of a text, D width,
R rows with a label, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.model.coca import CoCa
from coca.model.layers.kv_cache import BlockDiagonalAttention
from coca.model.layers.packing import lengths_to_last
from coca.model.layers.prepacked import linear

IMAGES_PER_CHUNK = 8
"""Images per chunk; their keys and values in all layers take memory."""
ROWS_PER_CHUNK = 4096
"""Decoder rows per chunk: fewer rows make matrix products slow, more rows take memory."""
LOGIT_ROWS_PER_CHUNK = 512
"""Rows per call of the vocabulary layer, whose output has V numbers per row."""


@torch.inference_mode()
def score_captions(
    model: CoCa,
    image_tokens: Float[Tensor, "N Q C"],
    tokens: Int[Tensor, "M T"],
    *,
    only: Bool[Tensor, "N M"] | None = None,
    end: bool = True,
) -> Float[Tensor, "N M"]:
    """Compute the log-probability of each text for each image, in nats.

    It is the sum over the text tokens and [EOS], the labels of the captioning loss. Without `end`,
    [EOS] does not count: the text may go on.
    """
    scores = torch.full((len(image_tokens), len(tokens)), -torch.inf, device=image_tokens.device)
    if scores.numel() == 0:
        return scores
    texts = _TextStates(model, tokens)
    for images, plan in _plan(scores.shape, texts.lengths, only):
        image = model.multimodal_decoder.read_image(image_tokens[images])
        for group in plan:
            chosen = group.to(scores.device)
            states, counts, targets = texts.padded(chosen)
            batch = image[0][0].shape[0]
            attention_states = [BlockDiagonalAttention(len(chosen))] * len(image)
            decoded = model.multimodal_decoder(
                states.flatten(0, 1).expand(batch, -1, -1), image, caches=attention_states
            )
            rows = decoded.unflatten(1, counts.shape)[:, counts]
            log_ps = torch.zeros(batch, *counts.shape, device=scores.device)
            log_ps[:, counts] = _log_p(
                rows.flatten(0, 1), targets[counts].repeat(batch), model.vocabulary_weight
            ).view(batch, -1)
            if not end:
                log_ps = log_ps.masked_fill(targets == model.config.text.eos_id, 0)
            scores[images, chosen] = log_ps.sum(dim=2)
    return scores


def scored_lengths(model: CoCa, tokens: Int[Tensor, "M T"]) -> Int[Tensor, " M"]:
    """Count the scored tokens of each text: its text tokens and [EOS]."""
    return model.label_mask(tokens).sum(dim=1)


class _TextStates:
    """Unimodal decoder states of all texts, without padding."""

    def __init__(self, model: CoCa, tokens: Int[Tensor, "M T"]) -> None:
        counts = model.label_mask(tokens)
        positions = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        # A position without a label may be between positions with labels.
        last = lengths_to_last(counts)
        self.lengths = last.tolist()
        """Number of rows of each text."""
        self._targets, self._counts = tokens.roll(-1, dims=1), counts
        self._starts = last.cumsum(0) - last
        real = positions <= last[:, None]
        rows = []
        for part in range(0, len(tokens), max(1, ROWS_PER_CHUNK // tokens.shape[1])):
            some = slice(part, part + max(1, ROWS_PER_CHUNK // tokens.shape[1]))
            longest = max(self.lengths[some])
            # Two rows without a label follow: [EOS] and, in one of the layouts, [CLS].
            states = model.unimodal_decoder(tokens[some, : longest + 2])[:, :longest]
            rows.append(states[real[some, :longest]])
        self._rows = torch.cat(rows)

    def padded(
        self, chosen: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m t D"], Bool[Tensor, "m t"], Int[Tensor, "m t"]]:
        """Pad a group of texts; return states, the mask of labelled rows, and the labels."""
        longest = max(self.lengths[text] for text in chosen.tolist())
        positions = torch.arange(longest, device=chosen.device)
        # The padding of a shorter text is rows of other texts; causal attention hides them.
        rows = (self._starts[chosen, None] + positions).clamp(max=len(self._rows) - 1)
        return (self._rows[rows], self._counts[chosen, :longest], self._targets[chosen, :longest])


def _plan(
    shape: Sequence[int], lengths: Sequence[int], only: Bool[Tensor, "N M"] | None
) -> Iterator[tuple[slice, list[Int[Tensor, " m"]]]]:
    """Yield chunks of images, each with the groups of texts to score for all of them."""
    images, texts = shape
    by_length = torch.tensor(sorted(range(texts), key=lengths.__getitem__))
    if only is None:
        for first in range(0, images, IMAGES_PER_CHUNK):
            some = slice(first, min(first + IMAGES_PER_CHUNK, images))
            yield some, _groups(by_length, lengths, ROWS_PER_CHUNK // (some.stop - some.start))
        return
    for image_index, row in enumerate(only.cpu()[:, by_length]):
        if bool(row.any()):
            yield (
                slice(image_index, image_index + 1),
                _groups(by_length[row], lengths, ROWS_PER_CHUNK),
            )


def _groups(
    by_length: Int[Tensor, " some"], lengths: Sequence[int], rows: int
) -> list[Int[Tensor, " m"]]:
    """Split texts, sorted by length, into groups of at most `rows` padded rows."""
    groups: list[list[int]] = []
    for text in by_length.tolist():
        if groups and (len(groups[-1]) + 1) * lengths[text] <= rows:
            groups[-1].append(text)
        else:
            groups.append([text])
    return [torch.tensor(group) for group in groups]


def _log_p(
    states: Float[Tensor, "R D"], targets: Int[Tensor, " R"], weight: Float[Tensor, "V D"]
) -> Float[Tensor, " R"]:
    """Compute the log-probability of each target token."""
    parts = [
        F.cross_entropy(linear(rows, weight).float(), labels, reduction="none")
        for rows, labels in zip(
            states.split(LOGIT_ROWS_PER_CHUNK), targets.split(LOGIT_ROWS_PER_CHUNK), strict=True
        )
    ]
    return -torch.cat(parts)
