"""Plots as inline SVG, byte-for-byte reproducible."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from coca.core.extras import require

Number: TypeAlias = int | float
Point: TypeAlias = tuple[Number, Number]


def line_plot(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], *, x_label: str, logarithmic: bool = False
) -> str:
    """Plot panels of curves in a row, as SVG."""

    def draw(figure: Any) -> None:
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

    return _svg(draw, width=3.6 * len(panels), height=2.6)


def bar_plot(values: Mapping[str, float], *, x_label: str) -> str:
    """Plot a horizontal bar per name, the first at the top; values are 0 to 1."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.barh(range(len(values)), list(values.values()), height=0.7)
        axes.set_yticks(range(len(values)), labels=[_label(name) for name in values])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(x_label)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)

    return _svg(draw, width=6.4, height=0.6 + 0.2 * len(values))


def heat_map(
    names: Sequence[str], shares: Sequence[Sequence[float]], *, x_label: str, y_label: str
) -> str:
    """Plot a square matrix of fractions, 0 to 1, with a row and a column per name."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        labels = [_label(name) for name in names]
        axes.set_xticks(range(len(names)), labels=labels, rotation=90)
        axes.set_yticks(range(len(names)), labels=labels)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        for row, line in enumerate(shares):
            for column, share in enumerate(line):
                if share >= 0.05:  # smaller values would only clutter the plot
                    ink = "white" if share > 0.5 else "black"
                    text = f"{100 * share:.0f}"
                    axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6.5)

    side = 1.8 + 0.26 * len(names)
    return _svg(draw, width=side, height=side)


def _svg(draw: Callable[[Any], None], *, width: float, height: float) -> str:
    """Render a figure of the given size in inches."""
    require("matplotlib", extra="report")
    # The object interface: no global state, no display.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "coca", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    # Inline SVG has no XML prologue.
    return text[text.index("<svg") :]


def _label(name: str) -> str:
    """Shorten a name for an axis, and escape `$`, which starts a formula."""
    short = name if len(name) <= 24 else f"{name[:23]}…"
    return short.replace("$", r"\$")
