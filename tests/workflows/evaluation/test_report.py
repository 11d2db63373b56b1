import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from coca.tasks.task import Example, ImageRow
from coca.workflows.evaluation.report import (
    ReportTable,
    Section,
    parameters_shown,
    render,
    render_markdown,
    thumbnail_uri,
)


def gray_image(width: int = 30, height: int = 20) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_a_page_needs_nothing_from_outside() -> None:
    hits = ImageRow("query", (Example(("a", "b"), gray_image(), correct=True),))
    page = render(
        "title",
        "lead",
        [
            Section(
                "one", "text", [ReportTable(["what", "value"], [["x", 0.12345], ["y", 12000]])]
            ),
            Section("two", blocks=[hits]),
            Section("three", blocks=[ImageRow("by image", (), lead=Example(("q",), gray_image()))]),
        ],
    )
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "0.123" in page
    assert "12,000" in page
    assert 'class=" marked"' in page


def test_words_from_data_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>"
    row = ImageRow(evil, (Example((evil,), gray_image()),))
    page = render(evil, evil, [Section(evil, evil, [row])])
    assert "<script>" not in page


def test_a_thumbnail_keeps_the_shape_of_its_image() -> None:
    uri = thumbnail_uri(gray_image(300, 200), 60)
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert image.size == (60, 40)


def test_markdown_holds_tables_and_text_and_no_image() -> None:
    rows: list[list[str | float | None]] = [["a|b", 0.25, None]]
    examples = (Example(("hit", "0.9"), gray_image(), correct=True), Example(("other",)))
    row = ImageRow("q", examples)
    section = Section("part", "text", [ReportTable(["x", "y", "z"], rows, "a note"), row])
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
