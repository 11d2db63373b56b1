"""Filter the samples of a source by sidecar fields with `where` and `part`, as in a table."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from coca.data.sample import Sample
from coca.data.sources.base import SelectionConfig
from coca.data.sources.tables.table import part_of, rows_of, select


def selected_rows(
    metadata_of: Callable[[int], Sample], count: int, config: SelectionConfig
) -> Int64[np.ndarray, " N"] | None:
    """Find the rows that match `config.where` and `config.part`; None if both are unset.

    The sidecar of each sample is read once. Columns are its fields, `key`, and `label`, the first
    label. A sample with a damaged sidecar is kept, so that reading it reports the error.

    Args:
        metadata_of: Returns the sample of a row without its image.
        count: Rows of the source.
        config: Has the filters.

    Raises:
        ConfigError: No sample matches.
    """
    if not config.where and config.part is None:
        return None
    chosen = select(_Sidecars(metadata_of, count), config.where, config.title)
    return rows_of(part_of(chosen, config.part, config.title))


class _Sidecars:
    """Table view of the metadata of all samples."""

    def __init__(self, metadata_of: Callable[[int], Sample], count: int) -> None:
        self._metadata_of = metadata_of
        self._count = count

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> Mapping[str, Any]:
        sample = self._metadata_of(number)
        labels = {"label": sample.labels[0]} if sample.labels else {}
        return {"key": sample.key, **sample.metadata, **labels}
