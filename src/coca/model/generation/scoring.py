"""How likely captions are: log p(text | image) for pairs of images and texts.

The lower half of the decoder reads each text once, for all images; the upper half reads the
texts of an image side by side, so that its keys and values exist once.

Dimensions: N images, B some of them, M texts, m some of them, T tokens of a text, D width, R rows
that predict a word, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from coca.model.captioner import Captioner
from coca.model.layers.kv_cache import BlockDiagonalAttention
from coca.model.layers.packing import last_places
from coca.model.layers.prepacked_linear import linear

PICTURES = 8
"""Pictures at a time: their keys and values in all layers take room."""
ROWS = 4096
"""Words at a time: fewer make matrix products slow, more take room."""
LOGIT_ROWS = 512
"""Words at a time before the vocabulary layer, whose output takes V numbers for each."""


@torch.inference_mode()
def score_captions(
    model: Captioner,
    image_tokens: Float[Tensor, "N Q C"],
    tokens: Int[Tensor, "M T"],
    *,
    only: Bool[Tensor, "N M"] | None = None,
) -> Float[Tensor, "N M"]:
    """Gives the log-probability of each text for each image, in nats.

    It is the sum over the words and [EOS], as the captioning loss counts them.

    Args:
        model: In evaluation mode.
        image_tokens: As `model.image_tokens` gives them.
        tokens: Captions as the model was trained on.
        only: The pairs to score; the others get minus infinity. None: all.
    """
    scores = torch.full((len(image_tokens), len(tokens)), -torch.inf, device=image_tokens.device)
    if scores.numel() == 0:
        return scores
    texts = _Texts(model, tokens)
    for pictures, plan in _plan(scores.shape, texts.lengths, only):
        image = model.multimodal_decoder.read_image(image_tokens[pictures])
        for group in plan:
            chosen = group.to(scores.device)
            states, counts, targets = texts.beside_each_other(chosen)
            batch = image[0][0].shape[0]
            memories = [BlockDiagonalAttention(len(chosen))] * len(image)
            decoded = model.multimodal_decoder(
                states.flatten(0, 1).expand(batch, -1, -1), image, caches=memories
            )
            rows = decoded.unflatten(1, counts.shape)[:, counts]
            log_ps = torch.zeros(batch, *counts.shape, device=scores.device)
            log_ps[:, counts] = _log_p(
                rows.flatten(0, 1), targets[counts].repeat(batch), model.vocabulary_weight
            ).view(batch, -1)
            scores[pictures, chosen] = log_ps.sum(dim=2)
    return scores


def scored_lengths(model: Captioner, tokens: Int[Tensor, "M T"]) -> Int[Tensor, " M"]:
    """Counts what the score of each text is a sum over: its words and [EOS]."""
    return model.label_mask(tokens).sum(dim=1)


class _Texts:
    """The texts as the lower half of the decoder gives them, without padding."""

    def __init__(self, model: Captioner, tokens: Int[Tensor, "M T"]) -> None:
        counts = model.label_mask(tokens)
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        # A place that predicts nothing may lie between others that do.
        last = last_places(counts)
        self.lengths = last.tolist()
        """Rows of each text."""
        self._targets, self._counts = tokens.roll(-1, dims=1), counts
        self._starts = last.cumsum(0) - last
        real = places <= last[:, None]
        rows = []
        for part in range(0, len(tokens), max(1, ROWS // tokens.shape[1])):
            some = slice(part, part + max(1, ROWS // tokens.shape[1]))
            longest = max(self.lengths[some])
            # Two more than predict: [EOS] and, in one of the layouts, [CLS].
            states = model.unimodal_decoder(tokens[some, : longest + 2])[:, :longest]
            rows.append(states[real[some, :longest]])
        self._rows = torch.cat(rows)

    def beside_each_other(
        self, chosen: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m t D"], Bool[Tensor, "m t"], Int[Tensor, "m t"]]:
        """Gives states, whether they predict a word, and the words."""
        longest = max(self.lengths[text] for text in chosen.tolist())
        places = torch.arange(longest, device=chosen.device)
        # Behind a shorter text stand rows of others, which nothing before them sees.
        rows = (self._starts[chosen, None] + places).clamp(max=len(self._rows) - 1)
        return (
            self._rows[rows],
            self._counts[chosen, :longest],
            self._targets[chosen, :longest],
        )


def _plan(
    shape: Sequence[int], lengths: Sequence[int], only: Bool[Tensor, "N M"] | None
) -> Iterator[tuple[slice, list[Int[Tensor, " m"]]]]:
    """Some images at a time, and the groups of texts to score with all of them."""
    pictures, texts = shape
    by_length = torch.tensor(sorted(range(texts), key=lengths.__getitem__))
    if only is None:
        for first in range(0, pictures, PICTURES):
            some = slice(first, min(first + PICTURES, pictures))
            yield some, _groups(by_length, lengths, ROWS // (some.stop - some.start))
        return
    for picture, row in enumerate(only.cpu()[:, by_length]):
        if bool(row.any()):
            yield slice(picture, picture + 1), _groups(by_length[row], lengths, ROWS)


def _groups(
    by_length: Int[Tensor, " some"], lengths: Sequence[int], rows: int
) -> list[Int[Tensor, " m"]]:
    """Cuts texts from the shortest to the longest into groups of at most `rows` padded rows."""
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
    """The log-probability of each target."""
    parts = [
        F.cross_entropy(linear(rows, weight).float(), words, reduction="none")
        for rows, words in zip(states.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
    ]
    return -torch.cat(parts)
