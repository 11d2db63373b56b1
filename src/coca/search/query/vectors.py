"""Exact top-k search of vectors: int8 first pass, float32 rescoring, proven error bound.

A row x is int8 codes c times a scale a, plus an error e of known length. A query q is quantized in
the same way, with an error f. By the Cauchy-Schwarz inequality the score of the codes differs from
q x by at most |q| |e| + |f| |a c|. Every row that may be among the top k by this bound is scored
again in float32, so the result equals that of a search of all float32 rows.

Dimensions: N rows, W written rows, Q queries, E embedding, C candidates, K results.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64

from coca.core.extras import require
from coca.core.files.atomic import atomic_folder

_BLOCK_ROWS = 8_192
"""Rows scored at a time: the codes of a block, 2 MB, and its scores fit the processor's cache."""
_GROUP_ROWS = 64
"""Rows with one maximum: these are compared first, as a partition of all scores takes longer."""
_QUERY_ROWS = 16
"""Queries in a pass, which needs 4 bytes of memory for each query and row."""
_PLAIN_ROWS = 1_000
"""Number of rows up to which all are scored in float32."""
_ROUNDING = 1e-6
"""Allowance for float32 rounding of approximate scores, relative to |q| |x|."""


@dataclass(frozen=True)
class Codes:
    """Rows as int8 codes with one scale per row, so that short rows lose no precision."""

    values: Int8[np.ndarray, "N E"]
    scales: Float32[np.ndarray, " N"]
    """A row is its codes times its scale, plus its error."""
    limits: Float32[np.ndarray, " 2"]
    """Largest length of an error, and of a row."""

    @classmethod
    def of(cls, rows: Float32[np.ndarray, "N E"]) -> "Codes":
        """Quantize rows."""
        values, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
        limits = np.zeros(2, np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            block = np.asarray(rows[part])
            # A lower limit, so that the codes of a row of zeros are zeros.
            largest = np.abs(block).max(axis=1, initial=1e-30)
            scales[part] = largest / 127
            scaled = block / scales[part, None]
            values[part] = np.rint(scaled)
            errors = block - values[part] * scales[part, None]
            lengths = [np.linalg.norm(some, axis=1).max() for some in (errors, block)]
            limits = np.maximum(limits, np.array(lengths, np.float32))
        return cls(values, scales, limits)


class VectorScan:
    """Immutable set of vectors with exact search by dot product; threads may share it.

    A row takes E + 4 bytes of memory for codes and scale: 260 MB for a million rows of 256 numbers.
    Its float32 numbers, four times as much, are read only for candidates, and `open` leaves them
    in a memory-mapped file.

    Written rows are in memory, 8 E bytes each, and all of them are scored, which is cheap for up to
    10,000; `save` merges them.

    Example:
        VectorScan(vectors).save(folder)
        rows, scores = VectorScan.open(folder).top(queries, 10)
    """

    def __init__(self, rows: Float32[np.ndarray, "N E"], codes: Codes | None = None) -> None:
        """Search `rows`, which may be a read-only memory map; without `codes` quantize them."""
        self._rows = np.asarray(rows)
        self._codes = codes or Codes.of(self._rows)
        self._written = np.zeros(0, np.int64)
        self._new = np.zeros((0, rows.shape[1]), np.float64)

    @classmethod
    def open(cls, folder: Path) -> "VectorScan":
        """Map the files that `save` wrote, in milliseconds."""
        rows, values = (np.load(folder / f"{name}.npy", "r") for name in ("rows", "codes"))
        if hasattr(mmap, "MADV_RANDOM"):
            # Else the system reads ahead: 20 queries read all of 1 GB from the disk, not 6 MB.
            rows.base.madvise(mmap.MADV_RANDOM)
        scales, limits = (np.load(folder / f"{name}.npy") for name in ("scales", "limits"))
        return cls(rows, Codes(np.asarray(values), scales, limits))

    def save(self, folder: Path) -> None:
        """Write all rows, written ones merged, as .npy files to a folder of their own.

        An existing folder is replaced as a whole; sets that have it open continue to work, except
        on Windows, where an open file cannot be replaced.
        """
        old, new = self._codes, Codes.of(self._new.astype(np.float32))
        with atomic_folder(folder) as unfinished:
            for name, unchanged, written in (
                ("rows", self._rows, self._new),
                ("codes", old.values, new.values),
                ("scales", old.scales, new.scales),
            ):
                shape = (len(self), *unchanged.shape[1:])
                file = unfinished / f"{name}.npy"
                merged = np.lib.format.open_memmap(file, "w+", unchanged.dtype, shape)
                merged[: len(unchanged)] = unchanged
                merged[self._written] = written
                merged.flush()
            np.save(unfinished / "limits.npy", np.maximum(old.limits, new.limits))

    def __len__(self) -> int:
        return max(len(self._rows), int(self._written[-1]) + 1 if len(self._written) else 0)

    @property
    def written(self) -> int:
        """Number of rows written since the set was built or opened."""
        return len(self._written)

    @property
    def rows(self) -> Float32[np.ndarray, "N E"]:
        """All vectors, read-only; they are copied only if some were written."""
        return self.vectors(np.arange(len(self))) if len(self._written) else self._rows

    def vectors(self, rows: Int64[np.ndarray, " C"]) -> Float32[np.ndarray, "C E"]:
        """Return the vectors of some rows."""
        vectors = np.empty((len(rows), self._rows.shape[1]), np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            vectors[part] = self._vectors(rows[part])
        return vectors

    def replaced(
        self, rows: Int64[np.ndarray, " W"], vectors: Float32[np.ndarray, "W E"]
    ) -> "VectorScan":
        """Return a set with other vectors at these rows, old or new; the rest is shared."""
        kept = ~np.isin(self._written, rows)
        written = np.concatenate([self._written[kept], rows])
        order = np.argsort(written)
        scan = VectorScan(self._rows, self._codes)
        scan._written = written[order]
        scan._new = np.concatenate([self._new[kept], vectors])[order]
        return scan

    def scores_of(
        self, query: Float32[np.ndarray, " E"], rows: Int64[np.ndarray, " C"]
    ) -> Float32[np.ndarray, " C"]:
        """Compute the dot products of a query with some rows.

        They are summed in float64: sums in float32 depend on the place of a row in a matrix, and
        equal rows would have different scores.
        """
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            scores[part] = self._vectors(rows[part]) @ query.astype(np.float64)
        return scores

    def top(
        self,
        queries: Float32[np.ndarray, "Q E"],
        k: int,
        *,
        kept: Bool[np.ndarray, " N"] | None = None,
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Find the rows with the largest dot products: best first, ties by row.

        Returns:
            Rows and scores.
        """
        base = np.ones(len(self._rows), bool) if kept is None else kept[: len(self._rows)].copy()
        base[self._written[self._written < len(base)]] = False
        is_kept = slice(None) if kept is None else kept[self._written]
        new = self._written[is_kept]
        found = min(k, int(np.count_nonzero(base)) + len(new))
        rows = np.empty((len(queries), found), np.int64)
        scores = np.empty((len(queries), found), np.float32)
        for row, near in enumerate(self._candidates(queries, k, base)):
            every = np.concatenate([near, new])
            scores_of_new = (self._new @ queries[row].astype(np.float64))[is_kept]
            exact = np.concatenate([self.scores_of(queries[row], near), scores_of_new])
            exact = exact.astype(np.float32)
            best = np.lexsort((every, -exact))[:found]
            rows[row], scores[row] = every[best], exact[best]
        return rows, scores

    def at_least(self, query: Float32[np.ndarray, " E"], least: float) -> Bool[np.ndarray, " N"]:
        """Return the mask of the rows whose dot product with a query is at least `least`."""
        (step,), (scores,) = _first_pass(self._codes, query[np.newaxis], None)
        scores = scores[: len(self._rows)] * step
        margin = self._margin(query, step)
        is_near = np.zeros(len(self), bool)
        is_near[: len(scores)] = scores > least + margin
        close = np.flatnonzero(np.abs(scores - least) <= margin)
        exact = np.union1d(close, self._written)
        is_near[exact] = self.scores_of(query, exact) >= least
        return is_near

    def _candidates(
        self, queries: Float32[np.ndarray, "Q E"], k: int, base: Bool[np.ndarray, " N"]
    ) -> Iterator[Int64[np.ndarray, " C"]]:
        """Find for each query the rows of the mask that may be among its top k."""
        count = int(np.count_nonzero(base))
        # Codes save nothing where few rows remain or most are wanted.
        if count <= max(_PLAIN_ROWS, 4 * k):
            yield from [np.flatnonzero(base)] * len(queries)
            return
        # Gathering a row takes twice as long as scoring it.
        some = np.flatnonzero(base) if 4 * count < len(base) else None
        for start in range(0, len(queries), _QUERY_ROWS):
            part = queries[start : start + _QUERY_ROWS]
            steps, scores = _first_pass(self._codes, part, some)
            if some is None and count < len(base):
                np.copyto(scores[:, : len(base)], -np.inf, where=~base)
            for query, step, near in zip(part, steps, scores, strict=True):
                rows = _best_of_groups(near, k)
                # k rows have at least this score, so that lower ones are not among the top k.
                lowest = self.scores_of(query, rows if some is None else some[rows]).min()
                rows = np.flatnonzero(near >= (lowest - self._margin(query, step)) / step)
                yield rows if some is None else some[rows]

    def _margin(self, query: Float32[np.ndarray, " E"], step: np.float32) -> float:
        """Compute the largest difference between exact scores and those of the codes."""
        error, longest = self._codes.limits
        length = np.linalg.norm(query)
        missed = np.linalg.norm(query - step * np.rint(query / step))
        return float(length * error + missed * (longest + error) + _ROUNDING * length * longest)

    def _vectors(self, rows: Int64[np.ndarray, " C"]) -> Float64[np.ndarray, "C E"]:
        if not len(self._written):
            return self._rows[rows].astype(np.float64)
        at = np.searchsorted(self._written, rows).clip(max=len(self._written) - 1)
        is_new = self._written[at] == rows
        vectors = np.empty((len(rows), self._rows.shape[1]), np.float64)
        vectors[is_new] = self._new[at[is_new]]
        vectors[~is_new] = self._rows[rows[~is_new]]
        return vectors


def _first_pass(
    codes: Codes, queries: Float32[np.ndarray, "Q E"], some: Int64[np.ndarray, " C"] | None
) -> tuple[Float32[np.ndarray, " Q"], Float32[np.ndarray, "Q N"]]:
    """Score rows by the codes of both sides; return the scale of each query, and its scores.

    The number of columns is a multiple of `_GROUP_ROWS`, and further columns are -inf.
    """
    numkong = require("numkong", extra="search")
    count = len(codes.values) if some is None else len(some)
    scores = np.empty((len(queries), -(-count // _GROUP_ROWS) * _GROUP_ROWS), np.float32)
    scores[:, count:] = -np.inf
    quantized = Codes.of(queries)
    if len(queries) > 1:
        # This kernel computes four queries at a time; for one, that of pairs is twice as fast.
        missing = -len(queries) % 4
        packed = numkong.dots_pack(np.pad(quantized.values, ((0, missing), (0, 0))))
    for start in range(0, count, _BLOCK_ROWS):
        part = slice(start, min(start + _BLOCK_ROWS, count))
        chosen = part if some is None else some[part]
        block, out = codes.values[chosen], scores[:, part]
        if len(queries) > 1:
            out[:] = np.asarray(numkong.dots_packed(block, packed)).T[: len(queries)]
        else:
            # Into int32 it takes twice as long. float32 is exact up to 1,040 numbers in a row.
            numkong.cdist(quantized.values, block, metric="dot", out=out)
        out *= codes.scales[chosen]
    return quantized.scales, scores


def _best_of_groups(scores: Float32[np.ndarray, " N"], k: int) -> Int64[np.ndarray, " K"]:
    """Find k rows with high scores: the best row of each of the k best groups of rows."""
    # Several times k groups contain a kept row if a quarter of all rows is kept.
    size = _GROUP_ROWS if len(scores) >= 8 * k * _GROUP_ROWS else 1
    groups = scores.reshape(-1, size)
    best = np.argpartition(groups.max(axis=1), -k)[-k:]
    return best * size + groups[best].argmax(axis=1)
