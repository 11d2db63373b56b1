"""A report as one HTML file that needs nothing else: tables, curves and pictures inside.

Pieces are plain values; `render` turns them into a page. Text from data is escaped.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TypeAlias

from PIL import Image

from coca.core.extras import require
from coca.processing.image import ImageSource, decode

Number: TypeAlias = int | float
Point: TypeAlias = tuple[Number, Number]


@dataclass(frozen=True)
class Table:
    """Rows of cells; numbers stand at the right."""

    columns: Sequence[str]
    """Headings."""
    rows: Sequence[Sequence[str | Number]]
    """Cells; numbers are shown with three digits behind the point, whole ones without."""
    note: str = ""
    """A sentence below."""
    kind: str = field(default="table", init=False)

    def cells(self) -> list[list[tuple[str, bool]]]:
        """Gives each cell's text and whether it is a number."""
        return [[(_shown(cell), not isinstance(cell, str)) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Plot:
    """Curves, drawn as SVG."""

    svg: str
    """From `line_plot`."""
    note: str = ""
    """A sentence below."""
    kind: str = field(default="plot", init=False)


@dataclass(frozen=True)
class Card:
    """A picture with lines of text below it."""

    image: ImageSource
    """The picture, in any form that `decode` reads."""
    lines: Sequence[str]
    """Text below, one line each."""
    marked: bool = False
    """Whether it is right: it gets a frame."""

    def data_uri(self, size_px: int = 72) -> str:
        """Gives the picture, at most `size_px` high and wide, as text to put into a page."""
        pixels = decode(self.image)
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        picture.thumbnail((size_px, size_px))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Grid:
    """Cards in a row, under a heading."""

    heading: str
    """Such as the query."""
    cards: Sequence[Card]
    """The pictures."""
    lead: Card | None = None
    """A picture before the row, such as a query that is one."""
    kind: str = field(default="grid", init=False)


Block: TypeAlias = Table | Plot | Grid


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    """Heading."""
    text: str = ""
    """A paragraph below it."""
    blocks: Sequence[Block] = ()
    """What it shows."""


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Gives the whole page.

    Raises:
        MissingExtraError: The extra `report` is not installed.
    """
    jinja = require("jinja2", extra="report")
    environment = jinja.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("coca.workflows").joinpath("report.html.j2").read_text(encoding="utf-8")
    page: str = environment.from_string(source).render(title=title, lead=lead, sections=sections)
    return page


def line_plot(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], *, x_label: str, logarithmic: bool = False
) -> str:
    """Draws panels side by side, each with its curves, as SVG.

    Args:
        panels: Title of each panel to its curves: label to points.
        x_label: What is on the horizontal axis.
        logarithmic: Vertical axes grow by factors.

    Raises:
        MissingExtraError: The extra `report` is not installed.
    """
    require("matplotlib", extra="report")
    # The object interface: no global state, no display.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "coca", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(3.6 * len(panels), 2.6), layout="constrained")
        for axes, (name, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for label, points in curves.items():
                axes.plot(*zip(*points, strict=True), label=label, linewidth=1.4)
            axes.set_title(name, fontsize=10)
            axes.set_xlabel(x_label)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if logarithmic:
                axes.set_yscale("log")
            if len(curves) > 1:
                axes.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    # Inside a page, an SVG has no prologue of its own.
    return text[text.index("<svg") :]


def parameters_shown(count: int) -> str:
    """Gives a count of parameters as people say it, such as `4.7M`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def _shown(cell: str | Number) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.3f}"
