"""Near-duplicate detection: copies of images, and parts or edited versions of them.

`same image`: perceptual hashes that are equal but for the noise of another size, compression or
grey. `part or edit`: a cosine of at least 0.8, and hashes of which one is mirrored, shows a part of
the other, or differs in few cells; or, at any cosine, one that shows the other with bars above or
below, such as a screenshot or an image with a caption. Its aspect ratio gives the height of the
bars, so that the rows of the hash between them can be compared.

All pairs are compared. The thresholds were chosen on photos of Flickr8k
(`benchmarks/duplicates.py`). A cosine neither finds nor confirms a copy: that of a quarter of the
size falls to 0.1, and that of different photos of one scene rises to 0.98.

Dimensions: N images, M images of another set, E embedding, P pairs, W windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from coca.core.cancellation import check_cancelled
from coca.core.progress import progress_bar
from coca.search.mining.images import Compared
from coca.search.perceptual_hash import SIDE, mirrored, normalized

Kind: TypeAlias = Literal["same image", "part or edit"]

KEPT_PAIRS = 100_000
"""Maximum number of pairs listed; 100,000 equal images form 5 billion pairs."""
MIN_CORRELATION, MAX_DIFFERENCE = 0.995, 10
"""Correlation of the hashes of an image and its copy, and largest difference of a cell in grey
levels. Copies have 0.998 and 10 at most; different photos of a series 18."""
MAX_STRETCH = 0.03
"""Relative difference of the aspect ratios of an image and its copy."""
MIN_COSINE = 0.8
"""Cosine from which an image may be a part or an edited version of another."""
MIN_WINDOW_CORRELATION = 0.94
"""Correlation of the hash of a part with the best window of the whole."""
EQUAL_LEVELS, MIN_EQUAL_CELLS, MIN_EDIT_CORRELATION = 4, 0.85, 0.7
"""An edited version has 85 % of its cells within 4 grey levels of those of the original."""
MIN_BARRED_CORRELATION, MAX_BARRED_DIFFERENCE = 0.97, 12
"""Correlation and mean difference in grey levels of an image and the rows between the bars of its
copy. Copies have 0.97 and 11, other photos 0.94 and 17 (lab notes)."""
MIN_CONTENT = 0.5
"""Least part of the height between the bars."""
_RATIO_STEP = 0.01
"""Relative difference of the aspect ratios that are compared as one."""
_WINDOW_SIZES = (0.95, 0.9, 0.85, 0.8, 0.75)
_BLOCK, _CHUNK = 2_048, 1 << 14


@dataclass(frozen=True)
class Pair:
    """Pair of near-duplicate images."""

    first: int
    """Row of the first image."""
    second: int
    """Row of the second image: a later row of the same set, or a row of the second set."""
    kind: Kind
    score: float
    """Cosine of both."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Result of near-duplicate detection."""

    counts: dict[Kind, int]
    """Total number of pairs of each kind."""
    pairs: list[Pair]
    """Pairs, same images first, each kind by cosine, highest first."""
    groups: list[list[int]]
    """Rows of one set that are the same image, best first; largest group first."""
    related: list[list[int]]
    """The best rows of images of one set that are parts or edited versions of each other."""
    drop: list[int]
    """Rows to drop so that no image is left twice, sorted: for one set all but the best of each
    group. Parts and edited versions stay."""


def near_duplicates(
    images: Compared,
    others: Compared | None = None,
    *,
    ranks: Sequence[int] | None = None,
    keep: int = KEPT_PAIRS,
) -> Duplicates:
    """Find all pairs, in memory linear in the images.

    Args:
        images: Images.
        others: Images of another set to compare with; default: the images with each other.
        ranks: Rank of each image, 0 for the best; default: the order of the images.
        keep: Maximum number of pairs of each kind that are listed.
    """
    right = images if others is None else others
    units, right_units = normalized(images.hashes), normalized(right.hashes)
    kinds: dict[Kind, _Best] = {"same image": _Best(keep), "part or edit": _Best(keep)}
    copies, relatives = _Groups(len(units)), _Groups(len(units))
    alike = np.zeros(len(units), bool)
    with progress_bar("comparing images", len(units)) as bar:
        for top in range(0, len(units), _BLOCK):
            check_cancelled()
            rows = slice(top, top + _BLOCK)
            for left in range(top if others is None else 0, len(right_units), _BLOCK):
                columns = slice(left, left + _BLOCK)
                scores = images.vectors[rows] @ right.vectors[columns].T
                near = units[rows] @ right_units[columns].T >= MIN_CORRELATION
                close = scores >= MIN_COSINE
                if others is None and left == top:
                    near, close = np.triu(near, 1), np.triu(close, 1)
                for first, second in _chunks(near):
                    same = _is_same(images, first + top, right, second + left)
                    first, second = first[same], second[same]
                    close[first, second] = False
                    kinds["same image"].add(first + top, second + left, scores[first, second])
                    alike[first + top] = True
                    if others is None:
                        copies.join(first + top, second + left)
                        relatives.join(first + top, second + left)
                for first, second in _chunks(close):
                    is_part = _is_part(images, first + top, right, second + left)
                    first, second = first[is_part], second[is_part]
                    kinds["part or edit"].add(first + top, second + left, scores[first, second])
                    if others is None:
                        relatives.join(first + top, second + left)
            bar.advance(len(units[rows]), pairs=kinds["same image"].count)
    for first, second in _barred_pairs(images, others):
        scores = (images.vectors[first] * right.vectors[second]).sum(axis=1)
        # The others are counted above.
        new = scores < MIN_COSINE
        new[~new] = ~_is_part(images, first[~new], right, second[~new])
        first, second = first[new], second[new]
        kinds["part or edit"].add(first, second, scores[new])
        if others is None:
            relatives.join(first, second)
    rank = np.arange(len(units)) if ranks is None else np.asarray(ranks)
    groups = [sorted(group, key=rank.__getitem__) for group in copies.members()]
    dropped = {row for group in groups for row in group[1:]}
    parts = [[row for row in group if row not in dropped] for group in relatives.members()]
    return Duplicates(
        counts={kind: best.count for kind, best in kinds.items()},
        pairs=[
            Pair(a, b, kind, score) for kind, best in kinds.items() for a, b, score in best.pairs()
        ],
        groups=groups,
        related=[sorted(group, key=rank.__getitem__) for group in parts if len(group) > 1],
        drop=sorted(dropped) if others is None else np.flatnonzero(alike).tolist(),
    )


def _chunks(
    found: Bool[np.ndarray, "A B"],
) -> Iterator[tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]]:
    first, second = np.nonzero(found)
    for start in range(0, len(first), _CHUNK):
        yield first[start : start + _CHUNK], second[start : start + _CHUNK]


def _is_same(
    images: Compared, first: np.ndarray, others: Compared, second: np.ndarray
) -> Bool[np.ndarray, " P"]:
    difference = np.abs(_levels(images, first) - _levels(others, second)).max(axis=1)
    return (difference <= MAX_DIFFERENCE) & _has_same_shape(
        images.sizes[first], others.sizes[second]
    )


def _is_part(
    images: Compared, first: np.ndarray, others: Compared, second: np.ndarray
) -> Bool[np.ndarray, " P"]:
    """Return whether one image of each pair is mirrored, changed in a few places, or a part."""
    one, other = _levels(images, first), _levels(others, second)
    units, other_units = normalized(images.hashes[first]), normalized(others.hashes[second])
    turned = mirrored(others.hashes[second])
    sizes, other_sizes = images.sizes[first], others.sizes[second]
    has_same_shape = _has_same_shape(sizes, other_sizes)
    is_mirrored = (
        (np.abs(one - turned.astype(np.int16)).max(axis=1) <= MAX_DIFFERENCE)
        & ((units * normalized(turned)).sum(axis=1) >= MIN_CORRELATION)
        & has_same_shape
    )
    is_edited = (
        ((np.abs(one - other) <= EQUAL_LEVELS).mean(axis=1) >= MIN_EQUAL_CELLS)
        & ((units * other_units).sum(axis=1) >= MIN_EDIT_CORRELATION)
        & has_same_shape
    )
    found = is_mirrored | is_edited
    known = (
        (sizes > 0).all(axis=1) & (other_sizes > 0).all(axis=1) & (sizes != other_sizes).any(axis=1)
    )
    for whole, part, contains in (
        (first, other_units, (sizes >= other_sizes).all(axis=1)),
        (second, units, (other_sizes >= sizes).all(axis=1)),
    ):
        source = images if whole is first else others
        pairs = np.flatnonzero(known & contains & ~found)
        for row in np.unique(whole[pairs]):
            mine = pairs[whole[pairs] == row]
            # The hashes of parts of the image, as far as its hash has them.
            cells = source.hashes[row].reshape(SIDE, SIDE).astype(np.float32)
            parts = (_DOWN @ cells @ _ACROSS.transpose(0, 2, 1)).reshape(len(_DOWN), -1)
            windows = normalized(parts)
            found[mine] = (windows @ part[mine].T).max(axis=0) >= MIN_WINDOW_CORRELATION
    return found


def _barred_pairs(
    images: Compared, others: Compared | None
) -> Iterator[tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]]:
    """Iterate over pairs of which one image shows the other with bars above, below or both.

    Yields:
        Rows of the first and the second images; within one set the smaller ones are first.
    """
    if others is None:
        for content, barred in _with_bars(images, images):
            yield np.minimum(content, barred), np.maximum(content, barred)
        return
    yield from _with_bars(images, others)
    for content, barred in _with_bars(others, images):
        yield barred, content


def _with_bars(
    images: Compared, others: Compared
) -> Iterator[tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]]:
    """Iterate over images and those among the others that show them between bars."""
    shapes, other_shapes = _by_aspect_ratio(images), _by_aspect_ratio(others)
    for ratio, rows in shapes.items():
        check_cancelled()
        for other_ratio, other_rows in other_shapes.items():
            # The bars make an image higher, its content stays.
            share = float(np.exp((ratio - other_ratio) * _RATIO_STEP))
            if not MIN_CONTENT <= share < 1 - MAX_STRETCH:
                continue
            for top in range(0, len(rows), _BLOCK):
                for left in range(0, len(other_rows), _BLOCK):
                    first, second = rows[top : top + _BLOCK], other_rows[left : left + _BLOCK]
                    found = np.zeros((len(first), len(second)), bool)
                    for start in (0.0, (1 - share) / 2, 1 - share):
                        cells = _rows_between(
                            images.hashes[first], others.hashes[second], start, share
                        )
                        found |= _shows_same(*cells)
                    for a, b in _chunks(found):
                        yield first[a], second[b]


def _by_aspect_ratio(images: Compared) -> dict[int, Int64[np.ndarray, " N"]]:
    """Group rows by the logarithm of height over width, in steps; those of known sizes."""
    known = np.flatnonzero((images.sizes > 0).all(axis=1))
    width, height = images.sizes[known].T
    steps = np.round(np.log(height / width) / _RATIO_STEP).astype(int)
    return {step: known[steps == step] for step in np.unique(steps).tolist()}


def _rows_between(
    hashes: UInt8[np.ndarray, "A B"], others: UInt8[np.ndarray, "C B"], start: float, share: float
) -> tuple[Float32[np.ndarray, "A R"], Float32[np.ndarray, "C R"]]:
    """Return the grey levels that hashes have where others are between bars."""
    end = start + share
    rows = np.arange(SIDE)
    # The next row to a bar is mixed with it.
    is_clear = ((rows - 0.5 >= start * SIDE) | (start == 0)) & (
        (rows + 1.5 <= end * SIDE) | np.isclose(end, 1)
    )
    clear = rows[is_clear]
    places = ((clear + 0.5) / SIDE - start) / share * SIDE - 0.5
    # A row of the barred image covers more than one of the other.
    weights = np.maximum(0, 1 - np.abs(places[:, None] - rows) * share).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    cells = weights @ hashes.reshape(-1, SIDE, SIDE).astype(np.float32)
    other_cells = others.reshape(-1, SIDE, SIDE)[:, clear].astype(np.float32)
    return cells.reshape(len(hashes), -1), other_cells.reshape(len(others), -1)


def _shows_same(
    cells: Float32[np.ndarray, "A R"], others: Float32[np.ndarray, "C R"]
) -> Bool[np.ndarray, "A C"]:
    found = normalized(cells) @ normalized(others).T >= MIN_BARRED_CORRELATION
    for first, second in _chunks(found):
        difference = np.abs(cells[first] - others[second]).mean(axis=1)
        found[first, second] = difference <= MAX_BARRED_DIFFERENCE
    return found


def _levels(images: Compared, rows: np.ndarray) -> np.ndarray:
    return images.hashes[rows].astype(np.int16)


def _has_same_shape(
    sizes: Int64[np.ndarray, "P 2"], others: Int64[np.ndarray, "P 2"]
) -> Bool[np.ndarray, " P"]:
    """Return whether aspect ratios agree; true where a size is unknown."""
    one, other = sizes[:, 0] * others[:, 1], sizes[:, 1] * others[:, 0]
    return np.abs(one - other) <= MAX_STRETCH * np.maximum(one, other)


def _resampled(start: float, size: float) -> Float32[np.ndarray, "S S"]:
    """Return the matrix that resamples a part of an axis, 0 to 1, to the cells of a hash."""
    places = (start + size * (np.arange(SIDE) + 0.5) / SIDE) * SIDE - 0.5
    below = np.clip(np.floor(places).astype(int), 0, SIDE - 2)
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[np.arange(SIDE), below + 1] = np.clip(places - below, 0, 1)
    weights[np.arange(SIDE), below] = 1 - weights[np.arange(SIDE), below + 1]
    return weights


_AXES = [
    [
        _resampled(start, size)
        for start in np.linspace(0, 1 - size, round((1 - size) * SIDE * 2) + 1)
    ]
    for size in _WINDOW_SIZES
]
"""For each size of a window, its places along an axis, half a cell apart."""
_DOWN = np.stack([axis for axes in _AXES for axis in axes for _ in axes])
_ACROSS = np.stack([axis for axes in _AXES for _ in axes for axis in axes])


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

    def pairs(self) -> list[tuple[int, int, float]]:
        self._cut()
        order = np.lexsort((self._second, self._first, -self._score))
        columns = (self._first[order], self._second[order], self._score[order])
        return list(zip(*(column.tolist() for column in columns), strict=True))

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
