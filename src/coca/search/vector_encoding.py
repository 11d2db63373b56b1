"""Options of a vector encoding: a projection to fewer dimensions, and a precision.

See `coca.search.vector_codec` for their meaning. This module imports no NumPy and creates no
encoding, which would import pydantic, since its options are those of commands.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from annotated_types import Ge

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError

Projection: TypeAlias = Literal["truncate", "pca"]
Precision: TypeAlias = Literal["float32", "int8", "binary"]


@dataclass(frozen=True, kw_only=True)
class VectorEncoding(Config):
    """Options of the form in which a collection stores vectors."""

    range_error: ClassVar = ArgumentError

    dimensions: Annotated[int, Ge(1)] | None = None
    """Number of stored dimensions of each vector. Default: all."""
    projection: Projection = "truncate"
    """Selects the `dimensions`: `truncate` keeps the first of them, `pca` the first principal
    components of a sample."""
    precision: Precision = "float32"
    """Type of a stored number: `float32`, `int8` (Milvus 2.6), or `binary` for signs (servers)."""
    pca_sample: Annotated[int, Ge(1)] = 2_000
    """Number of vectors from which the principal components are computed."""

    @property
    def changes(self) -> bool:
        """Whether stored vectors differ from those of the model."""
        return (
            self.dimensions is not None or self.projection == "pca" or self.precision != "float32"
        )

    def __str__(self) -> str:
        """Describe the encoding: `128 dimensions by pca, int8`."""
        if self.dimensions is None and self.projection == "truncate":
            return f"all dimensions, {self.precision}"
        return f"{self.dimensions or 'all'} dimensions by {self.projection}, {self.precision}"
