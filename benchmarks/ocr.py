"""Error and time of the text that `coca index --ocr` reads, on rendered and photographed pages.

    python benchmarks/ocr.py --pages 12

The pages are made here: lines of the documentation and invented invoices in four typefaces. A
rendered page is the drawn page itself. A photographed page is the same one in perspective, turned
by up to 6 degrees, on a background, with uneven light, blur, noise and JPEG compression. The
character error is the edit distance over the length of the text; the missed words are those of the
page that a search would not find. `empty` is a photographed page without text, which costs the
detection alone.
"""

import argparse
import io
import re
import time
from pathlib import Path

import matplotlib
import numpy as np
from options import run
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from side_by_side import Rounds, emit, figure, in_turn, table, write_report

from coca.runtime.text_reader import TextReader
from coca.search.query.words import analyze

FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold")
SIDE = (1_240, 1_754)
"""A page of A4 at 150 dots per inch."""
KINDS = {
    "rendered": "rendered pages",
    "photographed": "photographed pages",
    "empty": "photographs without text",
}
QUICK = {"pages": 1, "rounds": 1}


def page_text(number: int) -> list[str]:
    """Return the lines of a page."""
    if number % 2:
        random = np.random.default_rng(number)
        items = ["Garden chair", "Oak table", "Delivery", "Coffee beans 500 g", "Repair of bicycle"]
        prices = random.integers(100, 99_999, len(items)) / 100
        lines = [f"INVOICE {2020 + number % 6}-{random.integers(100, 999)}", "Miller & Sons Ltd."]
        lines += ["42 Harbour Street, Lisbon", f"Date: {1 + number % 28} March {2020 + number % 6}"]
        lines += [f"{item}  {price:,.2f}" for item, price in zip(items, prices, strict=True)]
        return [*lines, f"Total  {prices.sum():,.2f} EUR", "Payable within 30 days"]
    docs = sorted((Path(__file__).parents[1] / "docs").glob("[a-z]*.md"))
    text = re.sub(
        r"```.*?```|[`*|#\[\]]|\(\S+\)", " ", docs[number % len(docs)].read_text(), flags=re.S
    )
    words = [word for word in text.split() if word.isascii()][:160]
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 56:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def draw_page(lines: list[str], number: int) -> Image.Image:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(fonts / f"{FACES[number % len(FACES)]}.ttf", 28)
    page = Image.new("RGB", SIDE, "white")
    pen = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        pen.text((100, 120 + 48 * row), line, fill=(20, 20, 30), font=font)
    return page


def photograph(page: Image.Image, number: int) -> bytes:
    """Photograph a page: perspective, rotation, background, light, blur, noise and JPEG."""
    random = np.random.default_rng(number)
    width, height = page.size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], float)
    moved = corners + random.uniform(-0.05, 0.05, (4, 2)) * width
    # Coefficients of the perspective that maps the moved corners to those of the page.
    rows = [
        part
        for (x, y), (u, v) in zip(moved, corners, strict=True)
        for part in ([x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y])
    ]
    solved = np.linalg.solve(np.array(rows), corners.ravel())
    filled = (120, 95, 70)
    photo = page.transform(
        page.size,
        Image.Transform.PERSPECTIVE,
        solved.tolist(),
        Image.Resampling.BICUBIC,
        fillcolor=filled,
    )
    photo = photo.rotate(
        random.uniform(-6, 6), Image.Resampling.BICUBIC, expand=True, fillcolor=filled
    )
    pixels = np.asarray(photo.filter(ImageFilter.GaussianBlur(1)), np.float32)
    light = np.linspace(random.uniform(0.5, 0.8), 1, pixels.shape[1])[:, np.newaxis]
    noisy = pixels * light + random.normal(0, 10, pixels.shape)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=60)
    return stream.getvalue()


def edit_distance(one: str, other: str) -> int:
    """Compute the Levenshtein distance."""
    codes = np.array([ord(char) for char in other])
    row = np.arange(len(other) + 1)
    for char in one:
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(char)))
        # An insertion may follow any of them.
        shifted = np.concatenate([[row[0] + 1], best]) - np.arange(len(row))
        row = np.minimum.accumulate(shifted) + np.arange(len(row))
    return int(row[-1])


def images_of(kind: str, pages: int) -> list[tuple[bytes, str]]:
    made = []
    for number in range(pages):
        lines = [] if kind == "empty" else page_text(number)
        page = draw_page(lines, number)
        stream = io.BytesIO()
        page.save(stream, "PNG")
        data = stream.getvalue() if kind == "rendered" else photograph(page, number)
        made.append((data, "\n".join(lines)))
    return made


def contestant(arguments: argparse.Namespace) -> None:
    images = images_of(arguments.contestant, arguments.pages)
    reader = TextReader()
    reader([images[0][0]])
    started = time.perf_counter()
    found = reader([data for data, _ in images])
    seconds = time.perf_counter() - started
    errors = letters = missed = words = 0
    for text, (_, truth) in zip(found, images, strict=True):
        truth, text = " ".join(truth.split()), " ".join(text.split())
        errors, letters = errors + edit_distance(truth, text), letters + len(truth)
        wanted = set(analyze(truth))
        missed, words = missed + len(wanted - set(analyze(text))), words + len(wanted)
    emit(
        {
            "seconds": seconds / len(images),
            "character_error": errors / max(letters, 1),
            "missed_words": missed / max(words, 1),
            "with_text": sum(map(bool, found)),
        }
    )


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = [f"--pages={arguments.pages}"]
    rounds = in_turn(
        {kind: [f"--contestant={kind}", *shared] for kind in KINDS}, rounds=arguments.rounds
    )
    rows = [
        [
            KINDS[kind],
            figure(own, "seconds").shown(2),
            figure(own, "character_error").shown(4),
            figure(own, "missed_words").shown(4),
            f"{own[0]['with_text']:.0f} of {arguments.pages}",
        ]
        for kind, own in rounds.items()
    ]
    columns = ["", "seconds an image", "character error", "missed words", "images with text"]
    write_report(
        arguments,
        rounds,
        "ocr",
        f"Text of {arguments.pages} pages of A4 at 150 dpi",
        table(columns, rows),
        packages=("rapidocr", "onnxruntime"),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=12, help="pages (default 12)")
    units = {"seconds": "s", "character_error": "share", "missed_words": "share"}
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=units)
