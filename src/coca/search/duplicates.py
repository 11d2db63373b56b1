"""Near-duplicates: pairs of pictures whose vectors are almost the same, found exactly.

The paper's authors took 3.6M pictures out of their training data that were near-duplicates of
evaluation sets; an index that only finds most neighbours would leave some.

Letters: N pictures, M pictures of another set, E embedding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from coca.core.errors import SearchError
from coca.core.progress import ProgressMaker, silent

_BLOCK = 2_048


@dataclass(frozen=True)
class Pair:
    """Two pictures that are almost the same."""

    first: int
    """Row of one."""
    second: int
    """Row of the other: of the same set, and later; or of the second set."""
    score: float
    """Their cosine."""


def near_duplicates(
    vectors: Float32[np.ndarray, "N E"],
    others: Float32[np.ndarray, "M E"] | None = None,
    *,
    least: float = 0.95,
    progress: ProgressMaker = silent,
) -> list[Pair]:
    """All pairs whose cosine is at least `least`, the most alike first.

    Args:
        vectors: One a row, each of length 1.
        others: The set to compare with; by default the pictures are compared with each other.
        least: Cosine from which two count as the same, above 0; what it means depends on the model.
        progress: Shows how far it is; the work grows with the product of both sizes.

    Raises:
        SearchError: `least` is not above 0 and at most 1.
    """
    if not 0 < least <= 1:
        raise SearchError(
            f"near-duplicates have a cosine of at least {least}; right is above 0 to 1"
        )
    # A vector's product with itself may be rounded to below 1.
    least = min(least, 1 - 1e-6)
    right = vectors if others is None else others
    pairs: list[Pair] = []
    with progress("comparing pictures", len(vectors)) as bar:
        for top in range(0, len(vectors), _BLOCK):
            rows = vectors[top : top + _BLOCK]
            for left in range(top if others is None else 0, len(right), _BLOCK):
                scores = rows @ right[left : left + _BLOCK].T
                found = np.argwhere(scores >= least)
                if others is None and left == top:
                    found = found[found[:, 0] < found[:, 1]]
                pairs += [
                    Pair(int(top + row), int(left + column), float(scores[row, column]))
                    for row, column in found
                ]
            bar.advance(len(rows), pairs=len(pairs))
    return sorted(pairs, key=lambda pair: (-pair.score, pair.first, pair.second))


def groups_of(pairs: Iterable[Pair]) -> list[list[int]]:
    """Rows that are connected by pairs of one set, the largest groups first."""
    leader: dict[int, int] = {}

    def lead(row: int) -> int:
        while (above := leader.setdefault(row, row)) != row:
            leader[row] = row = leader[above]
        return row

    for pair in pairs:
        first, second = sorted((lead(pair.first), lead(pair.second)))
        leader[second] = first
    groups: dict[int, list[int]] = {}
    for row in sorted(leader):
        groups.setdefault(lead(row), []).append(row)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def to_drop(groups: Sequence[Sequence[int]]) -> list[int]:
    """Rows without which no two pictures of a group are left: all but the first of each."""
    return sorted(row for group in groups for row in group[1:])
