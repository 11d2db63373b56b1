"""Selection of the best rows of a query: bounds by codes first, then exact scores of a few rows.

Dimensions: N rows, B blocks of R rows, E embedding, C candidates, K results, G groups.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt64

from coca.search.ranking import fused_scores
from coca.search.records import SCORE_DIGITS
from coca.search.search_options import Ranking, Side
from coca.search.sqlite.codes import (
    BLOCK_ROWS,
    Codes,
    margins,
    products_of_rows,
)

SIDES: tuple[Side, Side] = ("image", "text")
OUT = np.float32(-1e30)
"""Score of rows that are not searched, far below any other."""
_GROUPS = 16
"""Groups of rows of a block, with one maximum each: these are compared first, as a partition of all
scores takes longer."""
_PART_ROWS = 8_192
"""Candidates that are scored at a time, which limits memory."""
_TIE = 2e-6
"""Scores that are nearer than this may be equal after rounding to `SCORE_DIGITS`."""

Words: TypeAlias = tuple[Int64[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Rows, ascending, and what words give them: BM25, or the match of labels and texts."""


@runtime_checkable
class RowReader(Protocol):
    """Reads rows of the state of the collection that a `Scan` is of."""

    def vectors(self, rows: Int64[np.ndarray, " C"], on: Side) -> Float32[np.ndarray, "C E"]:
        """Read vectors of rows, in this order; zeros where there is none."""
        ...

    def ids(self, rows: Int64[np.ndarray, " C"]) -> Sequence[str]:
        """Read the ids of rows, in this order."""
        ...


@dataclass(frozen=True)
class Ranked:
    """The best rows of a query, best first, and the parts of their scores."""

    rows: Int64[np.ndarray, " K"]
    image: Float32[np.ndarray, " K"]
    """Cosines of query and image."""
    caption: Float32[np.ndarray, " K"]
    """Cosines of query and caption; NaN where no caption counts."""
    bm25: Float32[np.ndarray, " K"]
    text: Float32[np.ndarray, " K"]
    """Match of labels and texts, see `coca.search.words.text_match`."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """One query of the rows of a collection, and how its best rows are selected."""

    query: Float32[np.ndarray, " E"]
    ranking: Ranking
    floor: float
    """Cosine of a caption from which on it counts."""
    codes: Mapping[Side, Sequence[Codes | None]]
    """Codes of blocks."""
    limits: Mapping[Side, Float32[np.ndarray, "B 2"]]
    """Limits of these codes."""
    counted: Bool[np.ndarray, "B R"]
    """Mask of rows with a caption that counts."""
    groups: Callable[[Int64[np.ndarray, " C"]], UInt64[np.ndarray, " C"]]
    """Returns the keys of the groups of rows."""
    reader: RowReader
    read: Sequence[Side] = SIDES
    """Sides whose cosines are read; others have none."""
    words: tuple[Words, ...] = ()
    """BM25, and match of labels and texts, of rows."""
    min_score: float | None = None
    """Minimum cosine of query and image."""

    @cached_property
    def margins(self) -> dict[Side, tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, " B"]]]:
        """Margins in each block of cosines by the codes of both, and by query and codes."""
        return {side: margins(self.query, self.limits[side]) for side in SIDES if self.uses(side)}

    def uses(self, side: Side) -> bool:
        """Return whether scores depend on a side."""
        ranking = self.ranking
        if side == "text":
            return ranking.caption_weight > 0
        return ranking.image_weight > 0 or self.min_score is not None

    def best(self, near: Float32[np.ndarray, "B R"], k: int) -> Ranked:
        """Select the best row of each of the k best groups by exact scores.

        Args:
            near: Scores by the codes of all rows.
            k: Number of groups.
        """
        margin = self._margin(0)
        least = self._reached(near, k)
        floor = np.maximum(least - margin - _TIE, OUT / 2).astype(np.float32)
        rows = np.flatnonzero(near >= floor[:, np.newaxis])
        groups = _Groups(self.groups(rows))
        if len(rows) > _PART_ROWS and self.min_score is None:
            approximate = near.reshape(-1)[rows].astype(np.float64)
            part = margin[rows // BLOCK_ROWS]
            may = groups.may_lead(approximate - part, approximate + part)
            rows, groups = rows[may], groups[may]
        lower, upper = self._bounds(rows)
        least = max(least, groups.kth(lower, k))
        may = (upper > -np.inf) & (upper >= least - _TIE) & groups.may_lead(lower, upper)
        rows, groups, lower, upper = rows[may], groups[may], lower[may], upper[may]
        # The best rows by codes are read first: then few of the others may be better.
        first = np.sort(groups.first(np.argsort(-upper, kind="stable"))[:k])
        parts, scores = np.empty((len(rows), 4), np.float32), np.full(len(rows), -np.inf)
        parts[first], scores[first] = self._scored(rows[first])
        lower[first] = scores[first]
        may = upper >= max(least, groups.kth(scores, k)) - _TIE
        may &= groups.may_lead(lower, upper)
        may[first] = False
        parts[may], scores[may] = self._scored(rows[may])
        found = np.flatnonzero((scores > -np.inf) & (scores >= groups.kth(scores, k) - _TIE))
        best = self._sorted(rows[found], groups[found], scores[found])[:k]
        return Ranked(rows[found[best]], *parts[found[best]].T)

    def _sorted(
        self,
        rows: Int64[np.ndarray, " C"],
        groups: "_Groups",
        scores: Float64[np.ndarray, " C"],
    ) -> Int64[np.ndarray, " K"]:
        """Return the position of the best row of each group, best first; ties are broken by id."""
        rounded = [round(score, SCORE_DIGITS) for score in scores.tolist()]
        count = Counter(rounded)
        tied = [at for at, score in enumerate(rounded) if count[score] > 1]
        ids = [""] * len(rows)
        for at, id in zip(tied, self.reader.ids(rows[tied]) if tied else (), strict=True):
            ids[at] = id
        order = sorted(range(len(rows)), key=lambda at: (-rounded[at], ids[at]))
        return groups.first(np.array(order, np.int64))

    def _reached(self, near: Float32[np.ndarray, "B R"], k: int) -> float:
        """Return a score that k groups have at least; -inf if fewer are found."""
        count = 2 * k
        while True:
            rows = _high_rows(near, count)
            least = _Groups(self.groups(rows)).kth(self._bounds(rows)[0], k)
            if least > -np.inf or len(rows) < count or count >= _PART_ROWS:
                return least
            count *= 4

    def _bounds(
        self, rows: Int64[np.ndarray, " C"]
    ) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
        """Compute the least and largest possible scores of rows, by query and codes.

        The least is -inf where the minimum of the cosine may be missed, the largest where it is.
        """
        numbers = rows // BLOCK_ROWS
        margin = self._margin(1)[numbers]
        image, caption = np.zeros(len(rows)), np.zeros(len(rows))
        for start in range(0, len(rows), _PART_ROWS):
            part = slice(start, start + _PART_ROWS)
            for side, scores in zip(SIDES, (image, caption), strict=True):
                if self.uses(side):
                    scores[part] = products_of_rows(
                        self.codes[side], self.query.astype(np.float64), rows[part]
                    )
        scores = self._fused(rows, image, caption)
        lower, upper = scores - margin, scores + margin
        if self.min_score is not None:
            near = self.margins["image"][1][numbers]
            lower[image - near < self.min_score] = -np.inf
            upper[image + near < self.min_score] = -np.inf
        return lower, upper

    def _scored(
        self, rows: Int64[np.ndarray, " C"]
    ) -> tuple[Float32[np.ndarray, "C 4"], Float64[np.ndarray, " C"]]:
        """Read rows: cosines of image and caption, BM25, match of texts; and compute scores."""
        parts = np.zeros((len(rows), 4), np.float32)
        for start in range(0, len(rows), _PART_ROWS):
            part = slice(start, start + _PART_ROWS)
            for side in self.read:
                # Sums in float32 depend on the place of a row in a matrix, and equal rows would
                # have different scores.
                vectors = self.reader.vectors(rows[part], side).astype(np.float64)
                parts[part, SIDES.index(side)] = vectors @ self.query
        scores = self._fused(rows, parts[:, 0], parts[:, 1])
        if self.min_score is not None:
            scores[parts[:, 0] < self.min_score] = -np.inf
        parts[~self.counted.reshape(-1)[rows], 1] = np.nan
        parts[:, 2:] = self._shared(rows)
        return parts, scores

    def _fused(
        self,
        rows: Int64[np.ndarray, " C"],
        image: Float[np.ndarray, " C"],
        caption: Float[np.ndarray, " C"],
    ) -> Float64[np.ndarray, " C"]:
        caption = np.where(self.counted.reshape(-1)[rows], caption, np.nan)
        return fused_scores(image, caption, self._shared(rows), self.ranking, self.floor)

    def _shared(self, rows: Int64[np.ndarray, " C"]) -> Float32[np.ndarray, "C 2"]:
        """Return BM25 and match of labels and texts of rows, 0 without."""
        shared = np.zeros((len(rows), 2), np.float32)
        for column, (some, values) in enumerate(self.words):
            if len(some):
                at = np.searchsorted(some, rows).clip(max=len(some) - 1)
                shared[:, column] = np.where(some[at] == rows, values[at], 0)
        return shared

    def _margin(self, step: int) -> Float64[np.ndarray, " B"]:
        """Return the largest difference in each block of scores, by `margins`."""
        ranking, none = self.ranking, np.zeros(len(self.limits["image"]))
        image, caption = (
            self.margins[side][step] if side in self.margins else none for side in SIDES
        )
        words = 1e-6 * (ranking.words_weight + ranking.text_weight)
        return ranking.image_weight * image + ranking.caption_weight * caption + words


class _Groups:
    """The groups of candidates."""

    def __init__(self, keys: UInt64[np.ndarray, " C"]) -> None:
        """Take the key of the group of each candidate."""
        self._keys = keys
        found, self._group = np.unique(keys, return_inverse=True)
        self._count = len(found)

    def __getitem__(self, some: Bool[np.ndarray, " C"] | Int64[np.ndarray, " K"]) -> "_Groups":
        """Return the groups of some candidates."""
        return _Groups(self._keys[some])

    def kth(self, scores: Float64[np.ndarray, " C"], k: int) -> float:
        """Return the score of the best row of the k-th best group; -inf if there are fewer."""
        return float(np.partition(self._best(scores), -k)[-k]) if self._count >= k else -np.inf

    def may_lead(
        self, lower: Float64[np.ndarray, " C"], upper: Float64[np.ndarray, " C"]
    ) -> Bool[np.ndarray, " C"]:
        """Return the mask of the rows that may be the best of their group."""
        return upper >= self._best(lower)[self._group] - _TIE

    def first(self, order: Int64[np.ndarray, " C"]) -> Int64[np.ndarray, " K"]:
        """Return the first of each group in an order of all positions."""
        at = np.full(self._count, len(order))
        np.minimum.at(at, self._group[order], np.arange(len(order)))
        return order[np.sort(at)]

    def _best(self, scores: Float64[np.ndarray, " C"]) -> Float64[np.ndarray, " G"]:
        best = np.full(self._count, -np.inf)
        np.maximum.at(best, self._group, scores)
        return best


def _high_rows(near: Float32[np.ndarray, "B R"], count: int) -> Int64[np.ndarray, " C"]:
    """Return at most `count` rows with high scores, ascending."""
    best = near
    if near.size >= 8 * count * BLOCK_ROWS // _GROUPS:
        while best.shape[1] > _GROUPS:
            half = best.shape[1] // 2
            best = np.maximum(best[:, :half], best[:, half:])
    flat = best.reshape(-1)
    rows = np.arange(len(flat)) if len(flat) <= count else np.argpartition(flat, -count)[-count:]
    rows = rows[flat[rows] > OUT / 2]
    if best is not near:
        numbers, columns = np.divmod(rows, _GROUPS)
        members = near.reshape(len(near), -1, _GROUPS)[numbers, :, columns]
        rows = numbers * BLOCK_ROWS + members.argmax(axis=1) * _GROUPS + columns
    return np.sort(rows)
