"""Calibrations that take a second."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coca.workflows.collections import calibrate


@contextmanager
def fewer_general_queries() -> Iterator[tuple[str, ...]]:
    """Calibrate with every eighth general query and "elephant"."""
    some = tuple(dict.fromkeys(["elephant", *calibrate.general_queries()[::8]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "general_queries", lambda: some)
        yield some
