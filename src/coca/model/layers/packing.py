"""Captions of like length side by side, so that almost nothing is computed for padding.

A batch of captions is ragged: a dozen tokens on average, the longest several times that. Packed,
the captions are sorted by length and cut into a few rectangles, each as wide as its longest
caption. All rectangles together are one flat list of rows, and that is all that linear layers and
norms see; only attention looks at one rectangle after the other. This needs no mask: what is behind
a caption's end comes last in its row, and causal attention never lets a real token see it.

Dimensions: B captions, M rows of all rectangles, b captions of one rectangle, t its length, D
width, W rows that are picked out.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BUCKET_COST = 8
"""Rows that one more rectangle costs: its attention is a call of its own in each layer."""


def last_places(marked: Bool[Tensor, "B t"]) -> Int[Tensor, " B"]:
    """Counts the places of each row up to the last marked one; 0 if there is none."""
    places = torch.arange(1, marked.shape[1] + 1, device=marked.device)
    return (places * marked).amax(dim=1)


@dataclass(frozen=True)
class LengthBucket:
    """Captions that are neighbours in the sorted order and share one length."""

    first: int
    """The first of them, counted in the sorted order."""
    captions: int
    """How many there are."""
    length: int
    """Tokens of each, those behind its end included."""


@dataclass(frozen=True)
class Packing:
    """Where each token of each caption lies in the flat list of rows."""

    order: Int[Tensor, " B"]
    """The captions from the shortest to the longest."""
    buckets: tuple[LengthBucket, ...]
    """How that order is cut."""
    masks: tuple[Bool[Tensor, "_ 1 _ _"], ...] | None = None
    """For each rectangle, what each place may see; None: itself and all before it."""

    @classmethod
    def of(cls, lengths: Int[Tensor, " B"]) -> "Packing":
        """Plans the rectangles for captions of these lengths; each is at least 1 token."""
        counts = lengths.tolist()
        order = sorted(range(len(counts)), key=counts.__getitem__)
        return cls(torch.tensor(order, device=lengths.device), tuple(_length_buckets(counts)))

    def shortened(self, by: int) -> "Packing":
        """Gives the packing of the same captions without their last `by` places."""
        shorter = (replace(old, length=old.length - by) for old in self.buckets)
        return replace(self, buckets=tuple(shorter), masks=None)

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each rectangle."""
        return [rectangle.captions * rectangle.length for rectangle in self.buckets]

    @cached_property
    def offsets(self) -> Int[Tensor, " B"]:
        """The row of each caption's first token; the others follow it."""
        starts = self._starts
        offsets = torch.empty_like(starts)
        offsets[self.order] = starts
        return offsets

    @cached_property
    def captions(self) -> Int[Tensor, " M"]:
        """The caption that each row belongs to."""
        return self.order.repeat_interleave(self._lengths, output_size=sum(self.sizes))

    @cached_property
    def places(self) -> Int[Tensor, " M"]:
        """The place of each row in its caption, from 0."""
        starts = self._starts.repeat_interleave(self._lengths, output_size=sum(self.sizes))
        return torch.arange(len(starts), device=starts.device) - starts

    def rows(self, wanted: Bool[Tensor, "B T"]) -> Int[Tensor, " W"]:
        """Gives the row of each wanted token, caption by caption."""
        places = torch.arange(wanted.shape[1], device=wanted.device)
        return (self.offsets[:, None] + places)[wanted]

    def split(self, rows: Tensor) -> list[Tensor]:
        """Gives each rectangle, (b, t, ...), as a view of flat rows (M, ...)."""
        return [
            part.unflatten(0, (rectangle.captions, rectangle.length))
            for part, rectangle in zip(rows.split(self.sizes), self.buckets, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Makes flat rows (M, ...) of rectangles (b, t, ...) again."""
        return torch.cat([part.flatten(0, 1) for part in parts])

    def shorten(self, rows: Float[Tensor, "M D"], by: int) -> Float[Tensor, "less D"]:
        """Drops the last `by` places of each caption: the rows that `shortened` describes."""
        return self.join([part[:, :-by] for part in self.split(rows)])

    def share_out(self, ordered: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Cuts tensors that follow `order` in their first axis into each rectangle's captions."""
        for rectangle in self.buckets:
            end = rectangle.first + rectangle.captions
            yield [tensor[rectangle.first : end] for tensor in ordered]

    @cached_property
    def _lengths(self) -> Int[Tensor, " B"]:
        """Places of each caption, in the sorted order."""
        lengths = [old.length for old in self.buckets for _ in range(old.captions)]
        return torch.tensor(lengths, device=self.order.device)

    @cached_property
    def _starts(self) -> Int[Tensor, " B"]:
        return self._lengths.cumsum(0) - self._lengths


def _length_buckets(lengths: Sequence[int]) -> Iterator[LengthBucket]:
    """Cuts where the fewest rows are computed, each cut counted as `BUCKET_COST` of them.

    Shortest path over the different lengths: `best[i]` is the cost of all captions that are no
    longer than the i-th length, `cut[i]` where the last of their rectangles begins.
    """
    counts = Counter(lengths)
    distinct = sorted(counts)
    below = list(accumulate((counts[length] for length in distinct), initial=0))
    best, cut = [0], []
    for end in range(1, len(distinct) + 1):
        costs = [
            best[begin] + (below[end] - below[begin]) * distinct[end - 1] + BUCKET_COST
            for begin in range(end)
        ]
        cheapest = min(costs)
        best.append(cheapest)
        cut.append(costs.index(cheapest))
    ends, end = [], len(distinct)
    while end:
        ends.append(end)
        end = cut[end - 1]
    begin = 0
    for end in reversed(ends):
        yield LengthBucket(below[begin], below[end] - below[begin], distinct[end - 1])
        begin = end
