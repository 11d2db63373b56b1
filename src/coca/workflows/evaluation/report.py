"""Reports as Markdown and HTML.

Blocks are plain values; rows of images are those of `coca.tasks.task`. `render` turns
them into a page with escaped text, `render_markdown` into text without images.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeAlias

from coca.core.extras import require
from coca.processing.image_file import ImageInput
from coca.tasks.task import THUMBNAIL_PX, ImageRow, thumbnail

# Markdown tables for model cards and reports.


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool] = ()
) -> str:
    """Format a Markdown table; `right` marks the right-aligned columns."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    edges = ["---:" if at < len(right) and right[at] else "---" for at in range(len(columns))]
    return "\n".join([line(columns), f"|{'|'.join(edges)}|", *map(line, rows)])


# Reports of tables and images, as one self-contained HTML file or as Markdown.


Number: TypeAlias = int | float


@dataclass(frozen=True)
class ReportTable:
    """A table; numbers are right-aligned."""

    columns: Sequence[str]
    """Headings."""
    rows: Sequence[Sequence[str | Number | None]]
    """Cells. Integers have no decimals, other numbers three below 10 and one from 10 on; None is
    empty."""
    note: str = ""
    """Note below the table."""

    def cells(self) -> list[list[tuple[str, bool]]]:
        """Return the text of each cell, and whether it is a number."""
        return [[(_shown(cell), not isinstance(cell, str)) for cell in row] for row in self.rows]


def thumbnail_uri(image: ImageInput, size_px: int = THUMBNAIL_PX) -> str:
    """Encode an image, at most `size_px` x `size_px` pixels, as a data URI for HTML."""
    return f"data:image/webp;base64,{base64.b64encode(thumbnail(image, size_px)).decode()}"


Block: TypeAlias = ReportTable | ImageRow


@dataclass(frozen=True)
class Section:
    """A section of the report."""

    title: str
    """Heading."""
    text: str = ""
    """A paragraph below it."""
    blocks: Sequence[Block] = ()
    """Blocks of the section."""


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Render the HTML page."""
    jinja = require("jinja2", extra="report")
    environment = jinja.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("coca.workflows").joinpath("report.html.j2").read_text(encoding="utf-8")
    page: str = environment.from_string(source).render(
        title=title, lead=lead, sections=sections, thumbnail_uri=thumbnail_uri
    )
    return page


def render_markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Render the report as Markdown: tables and texts of images."""
    parts = [f"# {title}", lead]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        for block in section.blocks:
            parts += [*_as_markdown(block), getattr(block, "note", "")]
    return "\n\n".join(part for part in parts if part) + "\n"


def _as_markdown(block: Block) -> list[str]:
    if isinstance(block, ReportTable):
        cells = block.cells()
        right = [number for _, number in cells[0]] if cells else []
        return [table(block.columns, [[text for text, _ in row] for row in cells], right=right)]
    marks = {True: "**correct:** ", False: ""}
    lines = [f"- {marks[one.correct]}{'; '.join(one.lines)}" for one in block.examples]
    return [f"### {block.heading}", "\n".join(lines)]


def parameters_shown(count: int) -> str:
    """Format a parameter count, such as `4.7M`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def _shown(cell: str | Number | None) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, int):
        return f"{cell:,}"
    # Fractions and CIDEr have three decimals; ranks are larger and need one.
    return f"{cell:.3f}" if abs(cell) < 10 else f"{cell:,.1f}"
