"""Vectors as int8 codes, with a margin for the difference between exact scores and theirs.

A row x is int8 codes c times a scale a, plus an error e of known length. A query q is quantized in
the same way, with an error f. The score of the codes of both differs from q x by q e + f a c, at
most |q| |e| + |f| |a c| by the Cauchy-Schwarz inequality. Rounding errors have no common direction:
a product with one has a standard deviation of 1 / sqrt(E) of this bound. So the margin is six
deviations, but at most the bound. Only vectors of two to four different values have errors in one
direction: of these, hits whose scores differ by less than .002 may be in another order.

Dimensions: N rows, B blocks of R rows, Q queries, E embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8

BLOCK_ROWS = 4_096
"""Rows of a block, of its codes and of its words."""
_ROUNDING = 1e-6
"""Allowance for float32 rounding of approximate scores, relative to |q| |x|."""
_DEVIATIONS = 6
"""Standard deviations of rounding errors in a margin. Of 27 million scores of 64 to 1,024
dimensions the largest difference was half of it. The bound would read four times as many rows."""
_LIMIT_BYTES, _ROW_BYTES = 8, 12
NO_ROWS = bytes(_LIMIT_BYTES)
"""Codes of no rows, as `Codes.to_bytes` returns them."""


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
        # A lower limit, so that the codes of a row of zeros are zeros.
        scales = np.abs(rows).max(axis=1, initial=1e-30) / np.float32(127)
        values = np.rint(rows / scales[:, np.newaxis]).astype(np.int8)
        errors = rows - values * scales[:, np.newaxis]
        lengths = [np.linalg.norm(part, axis=1).max(initial=0) for part in (errors, rows)]
        return cls(values, scales, np.array(lengths, np.float32))

    def replaced(self, rows: Sequence[tuple[int, bytes]], count: int) -> "Codes":
        """Return codes of `count` rows with others at some positions, each as in `to_rows`.

        The limits never decrease, so that the bound remains valid.
        """
        values = np.zeros((count, self.values.shape[1]), np.int8)
        scales = np.zeros(count, np.float32)
        values[: len(self.values)], scales[: len(self.scales)] = self.values, self.scales
        limits = self.limits
        if rows:
            at = [position for position, _ in rows]
            joined = b"".join([data for _, data in rows])
            new = np.frombuffer(joined, np.int8).reshape(len(rows), -1)
            numbers = np.frombuffer(new[:, :_ROW_BYTES].tobytes(), "<f4").reshape(-1, 3)
            values[at], scales[at] = new[:, _ROW_BYTES:], numbers[:, 2]
            limits = np.maximum(limits, numbers[:, :2].max(axis=0)).astype(np.float32)
        return Codes(values, scales, limits)

    def to_rows(self) -> list[bytes]:
        """Return limits, scale and values of each row, little-endian."""
        limits = self.limits.astype("<f4").tobytes()
        scales = self.scales.astype("<f4")
        return [
            limits + scale.tobytes() + values.tobytes()
            for scale, values in zip(scales, self.values, strict=True)
        ]

    def to_bytes(self) -> bytes:
        """Return limits, scales and values, little-endian."""
        numbers = np.concatenate([self.limits, self.scales]).astype("<f4")
        return numbers.tobytes() + self.values.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, embed_dim: int) -> "Codes":
        """Read what `to_bytes` wrote; the arrays are read-only views of the data."""
        count = (len(data) - _LIMIT_BYTES) // (embed_dim + 4)
        numbers = np.frombuffer(data, "<f4", count + 2).astype(np.float32, copy=False)
        values = np.frombuffer(data, np.int8, offset=numbers.nbytes)
        return cls(values.reshape(count, embed_dim), numbers[2:], numbers[:2])


def products(
    blocks: Sequence[Codes | None], queries: Codes, some: Bool[np.ndarray, "B R"]
) -> Float32[np.ndarray, "Q B R"]:
    """Compute the dot products of the codes of queries and of some rows.

    Those of other rows are any numbers.
    """
    import numkong

    result = np.zeros((len(queries.values), *some.shape), np.float32)
    if len(result) > 1:
        # This kernel computes four queries at a time; for one, that of pairs is twice as fast.
        missing = -len(result) % 4
        packed = numkong.dots_pack(np.pad(queries.values, ((0, missing), (0, 0))))
    else:
        # Into int32 it takes twice as long. float32 is exact up to 1,040 numbers in a row.
        pairs = partial(numkong.cdist, queries.values, metric="dot")
    counts = np.add.reduce(some.view(np.uint8), axis=1, dtype=np.uint16).tolist()
    for number, (codes, count) in enumerate(zip(blocks, counts, strict=True)):
        if codes is None or not count:
            continue
        values, scales, out = codes.values, codes.scales, result[:, number, : len(codes.scales)]
        # Gathering a row takes twice as long as scoring it.
        chosen = np.flatnonzero(some[number]) if 4 * count < len(values) else None
        if chosen is not None:
            values, scales = values[chosen], scales[chosen]
            out = np.empty((len(result), count), np.float32)
        if len(result) > 1:
            out[:] = np.asarray(numkong.dots_packed(values, packed)).T[: len(result)]
        else:
            pairs(values, out=out)
        out *= queries.scales[:, np.newaxis] * scales
        if chosen is not None:
            result[:, number, chosen] = out
    return result


def margins(
    query: Float32[np.ndarray, " E"], limits: Float32[np.ndarray, "B 2"]
) -> Float64[np.ndarray, " B"]:
    """Compute the margins of blocks: how far `products` may be from the exact dot products."""
    error, longest = limits.astype(np.float64).T
    missed = float(Codes.of(query[np.newaxis]).limits[0])
    length = float(np.linalg.norm(query))
    bound = length * error + missed * (longest + error)
    return bound * min(_DEVIATIONS / math.sqrt(len(query)), 1.0) + _ROUNDING * length * longest
