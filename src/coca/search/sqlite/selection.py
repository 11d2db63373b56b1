"""Selection of the best rows of a query: scores by codes first, then exact scores of a few rows.

The first rows by codes are read and scored exactly. Then so is each other row whose score by codes
and margin may reach the k-th best group of these, and the best row of its own group.

Dimensions: N rows, B blocks of R rows, E embedding, C candidates, K results, G groups.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt64

from coca.search.ranking import parts_of
from coca.search.records import SCORE_DIGITS
from coca.search.search_options import Ranking, Side
from coca.search.sqlite.codes import BLOCK_ROWS

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
    margins: Mapping[Side, Float64[np.ndarray, " B"]]
    """Largest difference in each block of cosines by codes and exact ones."""
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

    def best(self, near: Float32[np.ndarray, "B R"], k: int) -> Ranked:
        """Select the best row of each of the k best groups by exact scores.

        Args:
            near: Scores by the codes of all rows.
            k: Number of groups.
        """
        ranking, margins = self.ranking, self.margins
        margin = ranking.image_weight * margins["image"] + _TIE
        margin += ranking.caption_weight * margins["text"]
        margin += 1e-6 * (ranking.words_weight + ranking.text_weight)
        floor = np.maximum(self._reached(near, k) - margin, OUT / 2).astype(np.float32)
        rows = np.flatnonzero(near >= floor[:, np.newaxis])
        keys = self.groups(rows)
        if self.min_score is None:
            approximate, margin = near.reshape(-1)[rows], margin[rows // BLOCK_ROWS]
            may = approximate + margin >= _best_of_groups(keys, approximate - margin)[0]
            rows, keys = rows[may], keys[may]
        parts, scores = self._scored(rows)
        of_rows, of_groups = _best_of_groups(keys, scores)
        least = np.partition(of_groups, -k)[-k] if len(of_groups) > k else -np.inf
        found = np.flatnonzero((scores > -np.inf) & (scores >= np.maximum(of_rows, least) - _TIE))
        best = found[self._sorted(rows[found], keys[found], scores[found])[:k]]
        return Ranked(rows[best], *parts[best].T)

    def _reached(self, near: Float32[np.ndarray, "B R"], k: int) -> float:
        """Return an exact score that k groups have at least; -inf if few groups have any."""
        count = 2 * k
        while True:
            rows = _high_rows(near, count)
            order = np.argsort(-near.reshape(-1)[rows], kind="stable")
            first = _first_of_groups(self.groups(rows), order)[: count // 2]
            scores = np.sort(self._scored(rows[first])[1])
            if len(scores) >= k and scores[-k] > -np.inf:
                return float(scores[-k])
            if len(rows) < count or count >= _PART_ROWS:
                return -np.inf
            count *= 4

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
        parts[~self.counted.reshape(-1)[rows], 1] = np.nan
        for column, (some, values) in enumerate(self.words, start=2):
            if len(some):
                at = np.searchsorted(some, rows).clip(max=len(some) - 1)
                parts[:, column] = np.where(some[at] == rows, values[at], 0)
        image, caption = parts[:, 0], parts[:, 1]
        added = parts_of(image, caption, parts[:, 2:], self.ranking, self.floor)
        scores = np.sum([*added.values()], axis=0)
        if self.min_score is not None:
            scores[image < self.min_score] = -np.inf
        return parts, scores

    def _sorted(
        self,
        rows: Int64[np.ndarray, " C"],
        keys: UInt64[np.ndarray, " C"],
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
        return _first_of_groups(keys, np.array(order, np.int64))


def _best_of_groups(
    keys: UInt64[np.ndarray, " C"], scores: Float[np.ndarray, " C"]
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " G"]]:
    """Return the best score of the group of each row, and of each group."""
    found, group = np.unique(keys, return_inverse=True)
    best = np.full(len(found), -np.inf)
    np.maximum.at(best, group, scores)
    return best[group], best


def _first_of_groups(
    keys: UInt64[np.ndarray, " C"], order: Int64[np.ndarray, " C"]
) -> Int64[np.ndarray, " G"]:
    """Return the first of each group in an order of all positions."""
    return order[np.sort(np.unique(keys[order], return_index=True)[1])]


def _high_rows(near: Float32[np.ndarray, "B R"], count: int) -> Int64[np.ndarray, " C"]:
    """Return the rows with the highest scores, ascending; fewer than `count` are all."""
    best = near
    if near.size >= 8 * count * BLOCK_ROWS // _GROUPS:
        while best.shape[1] > _GROUPS:
            half = best.shape[1] // 2
            best = np.maximum(best[:, :half], best[:, half:])
    flat = best.reshape(-1)
    least = np.partition(flat, -count)[-count] if len(flat) > count else OUT
    return np.flatnonzero(near >= max(least, OUT / 2))
