import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from coca.tasks.task import Example, ImageRow
from coca.workflows.evaluation.plots import bar_plot, heat_map, line_plot
from coca.workflows.evaluation.report import (
    Drawing,
    Plot,
    Section,
    Table,
    parameters_shown,
    render,
    render_markdown,
    thumbnail_uri,
)


def gray_image(width: int = 30, height: int = 20) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_a_page_needs_nothing_from_outside() -> None:
    plot = Plot(line_plot({"loss": {"a": [(0, 1.0), (1, 0.5)]}}, x_label="step"), "a note")
    hits = ImageRow("query", (Example(("a", "b"), gray_image(), correct=True),))
    page = render(
        "title",
        "lead",
        [
            Section("one", "text", [Table(["what", "value"], [["x", 0.12345], ["y", 12000]])]),
            Section("two", blocks=[plot, hits]),
            Section("three", blocks=[ImageRow("by image", (), lead=Example(("q",), gray_image()))]),
            Section("four", blocks=[Drawing(b"a drawing", "heat maps")]),
        ],
    )
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "0.123" in page
    assert "12,000" in page
    assert page.count("<svg") == 1
    assert 'class=" marked"' in page
    assert f"base64,{base64.b64encode(b'a drawing').decode()}" in page


def test_words_from_data_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>"
    row = ImageRow(evil, (Example((evil,), gray_image()),))
    page = render(evil, evil, [Section(evil, evil, [row])])
    assert "<script>" not in page


def test_a_thumbnail_keeps_the_shape_of_its_image() -> None:
    uri = thumbnail_uri(gray_image(300, 200), 60)
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert image.size == (60, 40)


def test_curves_are_the_same_bytes_each_time() -> None:
    panels = {"p": {"a": [(0.0, 1.0), (1.0, 2.0)], "b": [(0.0, 2.0), (1.0, 3.0)]}}
    first = line_plot(panels, x_label="step", logarithmic=True)
    assert first == line_plot(panels, x_label="step", logarithmic=True)
    assert first.startswith("<svg")


def test_every_bar_and_square_has_its_name() -> None:
    names = ["a $ign", "a very long name of a thing that nobody says", "c"]
    bars = bar_plot(dict.fromkeys(names, 0.5), x_label="accuracy")
    shares = [[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]]
    squares = heat_map(names, shares, x_label="x", y_label="y")
    for svg in (bars, squares):
        assert "a $ign" in svg
        assert "a very long name of a t…" in svg
    assert ">80<" in squares


def test_markdown_holds_tables_and_text_and_no_image() -> None:
    rows: list[list[str | float | None]] = [["a|b", 0.25, None]]
    examples = (Example(("hit", "0.9"), gray_image(), correct=True), Example(("other",)))
    row = ImageRow("q", examples)
    section = Section("part", "text", [Table(["x", "y", "z"], rows, "a note"), row])
    text = render_markdown("title", "lead", [section])
    assert "| a\\|b | 0.250 |  |" in text
    assert "|---|---:|---:|" in text
    assert "- **correct:** hit; 0.9\n- other" in text
    assert "a note" in text
    assert "data:" not in text


def test_an_example_may_be_text_alone() -> None:
    page = render("t", "l", [Section("s", blocks=[ImageRow("q", (Example(("only",)),))])])
    assert "<img" not in page
    assert 'class=" text"' in page


@pytest.mark.parametrize(
    ("count", "shown"),
    [(12, "12"), (4_700, "4.7k"), (382_795_009, "382.8M"), (2_101_788_545, "2.1B")],
)
def test_parameter_counts_are_rounded_for_people(count: int, shown: str) -> None:
    assert parameters_shown(count) == shown


@pytest.mark.parametrize(("line", "wide"), [("a red car", False), ("a red car " * 4, True)])
def test_examples_with_sentences_are_wider(line: str, wide: bool) -> None:
    row = ImageRow("q", (Example((line,), gray_image()),))
    assert ("grid wide" in render("t", "l", [Section("s", blocks=[row])])) == wide
