"""Sequence packing by length buckets, so that little is computed for padding.

A batch of captions is ragged: a dozen tokens on average, the longest several times that. Packing
sorts the captions by length and splits them into a few buckets, each as wide as its longest
caption. All buckets together form one flat list of rows, the input of linear layers and norms.
Only attention processes one bucket after the other. It needs no mask: padding comes last in each
caption, and causal attention keeps real tokens from attending to it. States of real tokens equal
those that `examples/minimal_coca.py` computes from the padded batch.

Dimensions: B captions, M rows of all buckets, b captions of one bucket, t its length, D width,
W selected rows.
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
"""Cost of one more bucket, in rows: each bucket needs its own attention call in each layer."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for what the device computes."""
    return tensor if tensor.device == device else tensor.to(device, non_blocking=True)


def lengths_to_last(marked: Bool[Tensor, "B t"]) -> Int[Tensor, " B"]:
    """Count the positions of each row up to its last marked position; 0 if none is marked."""
    positions = torch.arange(1, marked.shape[1] + 1, device=marked.device)
    return (positions * marked).amax(dim=1)


@dataclass(frozen=True)
class LengthBucket:
    """Consecutive captions of the sorted order, padded to one length."""

    first: int
    """Index of the first caption in the sorted order."""
    captions: int
    """Number of captions."""
    length: int
    """Padded length of each caption in tokens."""


@dataclass(frozen=True)
class Packing:
    """The mapping from the tokens of captions to packed rows.

    It is planned where the lengths are: on the host, this waits for no accelerator, and `to` copies
    what layers read.
    """

    order: Int[Tensor, " B"]
    """Caption indices, shortest caption first."""
    buckets: tuple[LengthBucket, ...]
    """Length buckets, in the sorted order."""
    masks: tuple[Bool[Tensor, "_ 1 _ _"], ...] | None = None
    """Attention mask of each bucket; None: causal attention."""

    @classmethod
    def of(cls, lengths: Int[Tensor, " B"]) -> "Packing":
        """Choose the buckets for captions of these lengths in tokens, each at least 1."""
        counts = lengths.tolist()
        order = sorted(range(len(counts)), key=counts.__getitem__)
        return cls(torch.tensor(order, device=lengths.device), tuple(_length_buckets(counts)))

    @classmethod
    def padded(cls, captions: int, length: int, device: torch.device) -> "Packing":
        """Return the packing that keeps all rows of a padded batch, in their order.

        No step depends on values, so it can be exported; both numbers may be symbolic.
        """
        order = torch.arange(captions, device=device)
        return _PaddedBatch(order, (LengthBucket(0, captions, length),))

    def to(self, device: torch.device) -> "Packing":
        """Return the packing with its tensors on a device, without waiting for it."""
        if self.order.device == device:
            return self
        masks = None if self.masks is None else tuple(to_device(it, device) for it in self.masks)
        return replace(self, order=to_device(self.order, device), masks=masks)

    def shortened(self, by: int) -> "Packing":
        """Return the packing of the same captions without their last `by` positions."""
        shorter = (replace(old, length=old.length - by) for old in self.buckets)
        return replace(self, buckets=tuple(shorter), masks=None)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of rows of each bucket."""
        return [bucket.captions * bucket.length for bucket in self.buckets]

    @cached_property
    def offsets(self) -> Int[Tensor, " B"]:
        """Row of each caption's first token; its other tokens follow."""
        starts = self._starts
        offsets = torch.empty_like(starts)
        offsets[self.order] = starts
        return offsets

    @cached_property
    def captions(self) -> Int[Tensor, " M"]:
        """Caption index of each row."""
        return self.order.repeat_interleave(self._lengths, output_size=sum(self.sizes))

    @cached_property
    def positions(self) -> Int[Tensor, " M"]:
        """Position of each row in its caption, from 0."""
        starts = self._starts.repeat_interleave(self._lengths, output_size=sum(self.sizes))
        return torch.arange(len(starts), device=starts.device) - starts

    def rows(self, wanted: Bool[Tensor, "B T"]) -> Int[Tensor, " W"]:
        """Return the row of each selected token, caption by caption."""
        positions = torch.arange(wanted.shape[1], device=wanted.device)
        return (self.offsets[:, None] + positions)[wanted]

    def pad_first(
        self, rows: Float[Tensor, "M D"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Pad the first `lengths` rows of each caption to (B, L); also return the padding mask."""
        positions = torch.arange(int(lengths.max()), device=lengths.device)
        real = positions < lengths[:, None]
        chosen = self.offsets[:, None] + positions * real
        return rows[to_device(chosen, rows.device)], to_device(real, rows.device)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Split packed rows (M, ...) into buckets (b, t, ...), as views."""
        return [
            part.unflatten(0, (bucket.captions, bucket.length))
            for part, bucket in zip(rows.split(self.sizes), self.buckets, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Join buckets (b, t, ...) into packed rows (M, ...); the inverse of `split`."""
        return torch.cat([part.flatten(0, 1) for part in parts])

    def shorten(self, rows: Float[Tensor, "M D"], by: int) -> Float[Tensor, "less D"]:
        """Drop the rows of the last `by` positions of each caption; see `shortened`."""
        return self.join([part[:, :-by] for part in self.split(rows)])

    def split_by_bucket(self, ordered: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Split tensors whose first axis follows `order` into the captions of each bucket."""
        for bucket in self.buckets:
            end = bucket.first + bucket.captions
            yield [tensor[bucket.first : end] for tensor in ordered]

    @cached_property
    def _lengths(self) -> Int[Tensor, " B"]:
        """Padded length of each caption, in the sorted order."""
        lengths = [old.length for old in self.buckets for _ in range(old.captions)]
        return to_device(torch.tensor(lengths), self.order.device)

    @cached_property
    def _starts(self) -> Int[Tensor, " B"]:
        return self._lengths.cumsum(0) - self._lengths


@dataclass(frozen=True)
class _PaddedBatch(Packing):
    """One bucket with all captions of a batch, whose number and length may be symbolic."""

    @cached_property
    def offsets(self) -> Int[Tensor, " B"]:
        return self.order * self.buckets[0].length

    @cached_property
    def captions(self) -> Int[Tensor, " M"]:
        return self.order[:, None].expand(-1, self.buckets[0].length).flatten()

    @cached_property
    def positions(self) -> Int[Tensor, " M"]:
        bucket = self.buckets[0]
        positions = torch.arange(bucket.length, device=self.order.device)
        return positions.expand(bucket.captions, -1).flatten()

    def split(self, rows: Tensor) -> list[Tensor]:
        bucket = self.buckets[0]
        return [rows.unflatten(0, (bucket.captions, bucket.length))]


def _length_buckets(lengths: Sequence[int]) -> Iterator[LengthBucket]:
    """Choose the buckets with the fewest rows in total; each bucket adds `BUCKET_COST` rows.

    Dynamic programming over the distinct lengths: `best[i]` is the cost of all captions up to the
    i-th length, `cut[i]` the start of their last bucket.
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
