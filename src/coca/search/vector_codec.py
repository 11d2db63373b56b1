"""Vector encoding of a collection: a projection to fewer dimensions, and a precision.

A collection takes and returns vectors of the model's size. It stores them encoded. A decoded vector
is the stored one in the model's space, of length 1, so its inner product with a whole query is the
score of every search. Encoding a decoded vector again gives the stored vector.

Dimensions: N vectors, E embedding, D stored dimensions, S sample vectors.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float16, Float32, Shaped

from coca.core.errors import ArgumentError, SearchError
from coca.runtime.short_vectors import check_dimensions, normalized
from coca.search.vector_encoding import VectorEncoding

Stored: TypeAlias = list[np.ndarray] | list[bytes]
"""Values of a vector column; bytes for binary vectors."""
Sampler: TypeAlias = Callable[[int], Float[np.ndarray, "S E"]]
"""Returns up to a number of vectors of the future collection, each of length 1."""

VECTOR_TYPES: dict[str, str] = {
    "float32": "FLOAT_VECTOR",
    "int8": "INT8_VECTOR",
    "binary": "BINARY_VECTOR",
}
"""Precision -> data type of Milvus."""
_METRICS = {"float32": "IP", "int8": "COSINE", "binary": "HAMMING"}
_BITS = {"float32": 32, "int8": 8, "binary": 1}
_BINARY_OVERSAMPLING = 4
_MAX_BASIS_BYTES = 1_000_000
"""Maximum size of a basis in the collection's properties; a request of etcd contains 1.5 MB."""


@dataclass(frozen=True, eq=False)
class VectorCodec:
    """Encodes vectors for one collection, and decodes them."""

    encoding: VectorEncoding
    embed_dim: int
    """Size of the model's vectors."""
    components: Float16[np.ndarray, "E D"] | None = None
    """Principal components, one a column, as they are stored; None without PCA."""

    def __post_init__(self) -> None:
        check_dimensions(self.dimensions, self.embed_dim)
        if self.encoding.precision == "binary" and self.dimensions % 8:
            raise ArgumentError(
                f"dimensions of binary vectors must be a multiple of 8, got {self.dimensions}"
            )

    @property
    def dimensions(self) -> int:
        """Number of stored dimensions."""
        return self.encoding.dimensions or self.embed_dim

    @property
    def metric(self) -> str:
        """Metric of searches, by its Milvus name."""
        return _METRICS[self.encoding.precision]

    @property
    def vector_type(self) -> str:
        """Data type of the vector columns, by its Milvus name."""
        return VECTOR_TYPES[self.encoding.precision]

    @property
    def vector_bytes(self) -> int:
        """Size of a stored vector, in bytes."""
        return self.dimensions * _BITS[self.encoding.precision] // 8

    @property
    def exact_scores(self) -> bool:
        """Whether scores of Milvus are inner products of queries and decoded vectors."""
        return self.encoding.precision == "float32"

    @property
    def oversampling(self) -> int:
        """Candidates for each wanted result, which are then ranked by decoded vectors."""
        return _BINARY_OVERSAMPLING if self.encoding.precision == "binary" else 1

    def encode(self, vectors: Float[np.ndarray, "N E"]) -> Stored:
        """Encode vectors of length 1 as values of a vector column."""
        if not self.encoding.changes:
            return list(np.asarray(vectors, np.float32))
        return self._rounded(normalized(self._projected(vectors)))

    def encode_queries(self, vectors: Float[np.ndarray, "N E"]) -> Stored:
        """Encode queries of length 1; float32 queries keep their length in the stored space."""
        return self._rounded(self._projected(vectors))

    def decode(self, stored: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        """Decode values of a vector column to vectors of the model's size, of length 1."""
        if not len(stored):
            return np.zeros((0, self.embed_dim), np.float32)
        if not self.encoding.changes:
            return np.asarray(stored, np.float32)
        short = self._unrounded(stored)
        if self.components is not None:
            return normalized(short @ self._basis.T)
        return np.pad(short, ((0, 0), (0, self.embed_dim - self.dimensions)))

    def to_json(self) -> str:
        """Format as JSON, as it is stored with the collection."""
        text = None
        if self.components is not None:
            text = base64.b64encode(self.components.astype("<f2").tobytes()).decode()
        fields = asdict(self.encoding) | {"embed_dim": self.embed_dim, "components": text}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str, *, embed_dim: int) -> "VectorCodec":
        """Read the codec of a collection."""
        if not text:
            return cls(VectorEncoding(), embed_dim)
        try:
            fields: dict[str, Any] = json.loads(text)
            embed_dim, stored = fields.pop("embed_dim"), fields.pop("components")
            codec = cls(VectorEncoding(**fields), embed_dim)
            if stored is None:
                return codec
            numbers = np.frombuffer(base64.b64decode(stored), "<f2").astype(np.float16)
            return replace(codec, components=numbers.reshape(embed_dim, codec.dimensions))
        except (ValueError, TypeError, KeyError) as error:
            raise SearchError(f"its vector encoding cannot be read ({error})") from error

    @cached_property
    def _basis(self) -> Float32[np.ndarray, "E D"]:
        """Orthonormal basis near the stored components, which are rounded to 16 bits."""
        assert self.components is not None
        basis, upper = np.linalg.qr(self.components.astype(np.float64))
        return (basis * np.sign(np.diag(upper))).astype(np.float32)

    def _projected(self, vectors: Float[np.ndarray, "N E"]) -> Float32[np.ndarray, "N D"]:
        whole = np.asarray(vectors, np.float32)
        return whole[:, : self.dimensions] if self.components is None else whole @ self._basis

    def _rounded(self, short: Float32[np.ndarray, "N D"]) -> Stored:
        if self.encoding.precision == "binary":
            return [row.tobytes() for row in np.packbits(short > 0, axis=1)]
        if self.encoding.precision == "int8":
            # Each vector by its own scale, since cosines ignore it; so no sample is needed.
            largest = np.abs(short).max(axis=1, keepdims=True)
            scale = 127 / np.maximum(largest, np.finfo(np.float32).tiny)
            return list(np.rint(short * scale).astype(np.int8))
        return list(np.ascontiguousarray(short))

    def _unrounded(self, stored: Sequence[Any]) -> Float32[np.ndarray, "N D"]:
        if self.encoding.precision == "float32":
            return np.asarray(stored, np.float32)
        rows = np.stack([_bytes_of(value) for value in stored])
        if self.encoding.precision == "binary":
            return normalized(2.0 * np.unpackbits(rows, axis=1).astype(np.float32) - 1)
        return normalized(rows.view(np.int8).astype(np.float32))


Basis: TypeAlias = Sampler | VectorCodec
"""Sample vectors from which a PCA basis is computed, or the codec whose basis is used again."""


def fit_codec(encoding: VectorEncoding, embed_dim: int, basis: Basis | None = None) -> VectorCodec:
    """Fit an encoding to a model's vectors.

    Raises:
        ConfigError: The dimensions are above `embed_dim`, or do not fit the precision.
        SearchError: There are too few sample vectors, or the basis is too large to store.
    """
    codec = VectorCodec(encoding, embed_dim)
    if encoding.projection == "truncate":
        return codec
    size = codec.dimensions
    # Two bytes a number, in base64.
    if embed_dim * size * 2 * 4 // 3 > _MAX_BASIS_BYTES:
        raise SearchError(
            f"a PCA basis of {embed_dim} x {size} numbers does not fit into the properties of "
            f"a collection: at most {_MAX_BASIS_BYTES * 3 // 8 // embed_dim} dimensions do"
        )
    if basis is None:
        raise SearchError("projection='pca' needs sample vectors: pass a function as basis")
    if isinstance(basis, VectorCodec):
        return replace(codec, components=basis.components)
    sample = np.asarray(basis(encoding.pca_sample))
    if len(sample) < size:
        raise SearchError(
            f"a PCA basis of {size} dimensions needs at least {size} sample vectors, got "
            f"{len(sample)}: index more images at first, or choose fewer dimensions or "
            "projection 'truncate'"
        )
    # The first principal components, without centering: cosines are about the origin.
    rows = sample.astype(np.float64)
    components = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :size]
    if encoding.precision != "float32":
        # Equal variances in all dimensions: signs of 256 of 256 components find 0.28 of the ten
        # nearest without the rotation, which is the same for each collection.
        rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0]
        components = components @ rotation
    return replace(codec, components=components.astype(np.float16))


def _bytes_of(value: Any) -> Shaped[np.ndarray, " B"]:
    """Return the bytes of a value; the client of Milvus wraps them in a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], bytes):
        value = value[0]
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    return np.asarray(value).astype(np.int8).view(np.uint8)
