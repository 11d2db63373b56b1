"""Text inside images, by the models of RapidOCR."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from coca.processing.text_reader import MAX_TEXT_BYTES, TextReader

pytest.importorskip("rapidocr")


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader()


def page(*lines: str) -> bytes:
    image = Image.new("RGB", (460, 60 + 50 * len(lines)), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text(
            (30, 30 + 50 * row), line, fill="black", font=ImageFont.load_default(28)
        )
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_lines_are_read_from_top_to_bottom(reader: TextReader) -> None:
    assert reader([page("INVOICE 2024-118", "Total 1,249.50")]) == [
        "INVOICE 2024-118\nTotal 1,249.50"
    ]


def test_images_without_text_and_damaged_ones_have_none(reader: TextReader) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    odd = [np.zeros((1, 1), np.uint8), np.zeros((1, 3_000, 3), np.uint8)]
    assert reader([np.full((64, 64), 255, np.uint8), noise, *odd, b"", b"no image"]) == [""] * 6


def test_the_text_is_cut(reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coca.processing.text_reader.MAX_TEXT_BYTES", 5)
    assert reader([page("INVOICE 2024")]) == ["INVOI"]
    assert MAX_TEXT_BYTES < 65_535
