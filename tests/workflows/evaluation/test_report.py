import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from coca.workflows.evaluation.plots import bar_plot, heat_map, line_plot
from coca.workflows.evaluation.report import (
    Card,
    Drawing,
    Grid,
    Plot,
    Section,
    Table,
    parameters_shown,
    render,
    render_markdown,
)


def gray_image(width: int = 30, height: int = 20) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_a_page_needs_nothing_from_outside() -> None:
    plot = Plot(line_plot({"loss": {"a": [(0, 1.0), (1, 0.5)]}}, x_label="step"), "a note")
    page = render(
        "title",
        "lead",
        [
            Section("one", "text", [Table(["what", "value"], [["x", 0.12345], ["y", 12000]])]),
            Section(
                "two", blocks=[plot, Grid("query", [Card(gray_image(), ["a", "b"], marked=True)])]
            ),
            Section("three", blocks=[Grid("by image", [], lead=Card(gray_image(), ["q"]))]),
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
    page = render(evil, evil, [Section(evil, evil, [Grid(evil, [Card(gray_image(), [evil])])])])
    assert "<script>" not in page


def test_a_card_shrinks_its_image_and_keeps_its_shape() -> None:
    uri = Card(gray_image(300, 200), ["x"]).data_uri(60)
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
    cards = [Card(gray_image(), ["hit", "0.9"], marked=True), Card(None, ["other"])]
    section = Section("part", "text", [Table(["x", "y", "z"], rows, "a note"), Grid("q", cards)])
    text = render_markdown("title", "lead", [section])
    assert "| a\\|b | 0.250 |  |" in text
    assert "|---|---:|---:|" in text
    assert "- **correct:** hit; 0.9\n- other" in text
    assert "a note" in text
    assert "data:" not in text


def test_a_card_may_be_words_alone() -> None:
    page = render("t", "l", [Section("s", blocks=[Grid("q", [Card(None, ["only"])], wide=True)])])
    assert "<img" not in page
    assert 'class=" text"' in page


@pytest.mark.parametrize(
    ("count", "shown"),
    [(12, "12"), (4_700, "4.7k"), (382_795_009, "382.8M"), (2_101_788_545, "2.1B")],
)
def test_parameter_counts_are_rounded_for_people(count: int, shown: str) -> None:
    assert parameters_shown(count) == shown
