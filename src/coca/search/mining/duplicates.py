"""Near-duplicate detection: all pairs of images above a cosine threshold, exactly.

The CoCa authors removed 3.6M near-duplicates of evaluation sets from their training data. An
approximate index would miss some.

Dimensions: N images, M images of another set, E embedding, P pairs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from coca.core.errors import ArgumentError
from coca.core.progress import ProgressMaker, silent
from coca.search.search_options import MIN_SIMILARITY

KEPT_PAIRS = 100_000
"""Maximum number of pairs listed; 100,000 equal images form 5 billion pairs."""
_BLOCK = 2_048


@dataclass(frozen=True)
class Pair:
    """Pair of near-duplicate images."""

    first: int
    """Row of the first image."""
    second: int
    """Row of the second image: a later row of the same set, or a row of the second set."""
    score: float
    """Cosine of both."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Result of near-duplicate detection."""

    count: int
    """Total number of pairs."""
    pairs: list[Pair]
    """Pairs of highest cosine, highest first."""
    groups: list[list[int]]
    """Connected components of rows of one set, largest first; empty for two sets."""
    drop: list[int]
    """Rows to drop so that no pair is left, sorted; for one set all but the first of each group."""


def near_duplicates(
    vectors: Float32[np.ndarray, "N E"],
    others: Float32[np.ndarray, "M E"] | None = None,
    *,
    min_similarity: float = MIN_SIMILARITY,
    keep: int = KEPT_PAIRS,
    progress: ProgressMaker = silent,
) -> Duplicates:
    """Find all pairs with a cosine of at least `min_similarity`, in memory linear in the images."""
    if not 0 < min_similarity <= 1:
        raise ArgumentError(f"the minimum cosine must be in (0, 1], got {min_similarity}")
    # The product of a vector with itself may be rounded to below 1.
    min_similarity = min(min_similarity, 1 - 1e-6)
    right = vectors if others is None else others
    best, groups = _Best(keep), _Groups(len(vectors))
    alike = np.zeros(len(vectors), bool)
    with progress("comparing images", len(vectors)) as bar:
        for top in range(0, len(vectors), _BLOCK):
            rows = vectors[top : top + _BLOCK]
            for left in range(top if others is None else 0, len(right), _BLOCK):
                scores = rows @ right[left : left + _BLOCK].T
                found = scores >= min_similarity
                if others is None and left == top:
                    found = np.triu(found, 1)
                first, second = np.nonzero(found)
                if len(first):
                    best.add(first + top, second + left, scores[first, second])
                    alike[first + top] = True
                    if others is None:
                        groups.join(first + top, second + left)
            bar.advance(len(rows), pairs=best.count)
    members = groups.members()
    drop = [row for group in members for row in group[1:]]
    return Duplicates(
        count=best.count,
        pairs=best.pairs(),
        groups=members,
        drop=sorted(drop) if others is None else np.flatnonzero(alike).tolist(),
    )


class _Best:
    """Pairs of highest cosine so far, and the total count."""

    def __init__(self, keep: int) -> None:
        self.count = 0
        self._keep = keep
        self._first = self._second = np.zeros(0, np.int64)
        self._score = np.zeros(0, np.float32)
        self._least = -np.inf

    def add(
        self,
        first: Int64[np.ndarray, " P"],
        second: Int64[np.ndarray, " P"],
        score: Float32[np.ndarray, " P"],
    ) -> None:
        self.count += len(first)
        wanted = score > self._least
        self._first = np.concatenate([self._first, first[wanted]])
        self._second = np.concatenate([self._second, second[wanted]])
        self._score = np.concatenate([self._score, score[wanted]])
        if len(self._score) > 2 * self._keep:
            self._cut()

    def pairs(self) -> list[Pair]:
        self._cut()
        order = np.lexsort((self._second, self._first, -self._score))
        columns = (self._first[order], self._second[order], self._score[order])
        return [Pair(*row) for row in zip(*(one.tolist() for one in columns), strict=True)]

    def _cut(self) -> None:
        if len(self._score) <= self._keep:
            return
        rows = np.argpartition(-self._score, max(self._keep - 1, 0))[: self._keep]
        self._first, self._second = self._first[rows], self._second[rows]
        self._score = self._score[rows]
        self._least = self._score.min(initial=np.inf)


class _Groups:
    """Union-find over rows; the root of a group is its smallest row."""

    def __init__(self, count: int) -> None:
        self._above = np.arange(count)

    def join(self, first: Int64[np.ndarray, " P"], second: Int64[np.ndarray, " P"]) -> None:
        while len(first):
            first, second = self._leaders(first), self._leaders(second)
            apart = first != second
            first, second = first[apart], second[apart]
            np.minimum.at(self._above, np.maximum(first, second), np.minimum(first, second))
        # Path compression.
        self._above = self._leaders(self._above)

    def members(self) -> list[list[int]]:
        """List the groups of at least two rows, largest first."""
        order = np.argsort(self._above, kind="stable")
        starts = np.flatnonzero(np.diff(self._above[order], prepend=-1))
        parts = [part.tolist() for part in np.split(order, starts[1:]) if len(part) > 1]
        return sorted(parts, key=lambda group: (-len(group), group[0]))

    def _leaders(self, rows: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
        while not np.array_equal(above := self._above[rows], rows):
            rows = above
        return rows
