"""Markdown tables for model cards and reports."""

from collections.abc import Iterable, Sequence


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool] = ()
) -> str:
    """Format a Markdown table; `right` marks the right-aligned columns."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    edges = ["---:" if at < len(right) and right[at] else "---" for at in range(len(columns))]
    return "\n".join([line(columns), f"|{'|'.join(edges)}|", *map(line, rows)])
