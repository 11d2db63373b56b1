"""Select samples of a source by the fields of their sidecars: `where` and `part`, as in a table."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from coca.data.sample import Sample
from coca.data.sources.base import SourceConfig
from coca.data.sources.tables import part_of, rows_of, select


def selected_rows(
    words: Callable[[int], Sample], count: int, config: SourceConfig
) -> Int64[np.ndarray, " N"] | None:
    """Find the rows that fit `config.where` and `config.part`; None if both are unset.

    The sidecar of each sample is read once. Its fields count, `key`, and `label`, the first of its
    labels. A sample whose sidecar is damaged stays in, so that reading it reports it.

    Args:
        words: Gives a row's sample without its image.
        count: Rows of the source.
        config: Says which are wanted.

    Raises:
        ConfigError: No sample fits.
    """
    if not config.where and config.part is None:
        return None
    chosen = select(_Sidecars(words, count), config.where, config.title)
    return rows_of(part_of(chosen, config.part, config.title))


class _Sidecars:
    """A table of the fields of each sample."""

    def __init__(self, words: Callable[[int], Sample], count: int) -> None:
        self._words = words
        self._count = count

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> Mapping[str, Any]:
        sample = self._words(number)
        labels = {"label": sample.labels[0]} if sample.labels else {}
        return {"key": sample.key, **sample.metadata, **labels}
