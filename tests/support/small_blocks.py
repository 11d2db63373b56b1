"""Blocks of a few rows, so that tests fill, move and cut off blocks with few records."""

from collections.abc import Callable
from typing import Any

from coca.search.sqlite import blocks, check, codes, compaction, postings, scan

ROWS = 16
FOLD_ROWS = 6


def use_small_blocks(set: Callable[[Any, str, int], None] = setattr) -> None:
    """Use blocks of 16 rows in this process, by `setattr` or that of pytest."""
    for module in (blocks, check, codes, compaction, postings, scan):
        set(module, "BLOCK_ROWS", ROWS)
    set(blocks, "FOLD_ROWS", FOLD_ROWS)
