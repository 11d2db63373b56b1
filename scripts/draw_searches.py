"""Draw docs/search.png: the first hits of queries in the demo's collection, after `make demo`.

    python scripts/draw_searches.py

The hits are also in the file as metadata, so that `tests/demo/test_drawn_searches.py` compares them
with those of the present program.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

import coca
from coca.search.milvus.collection import Collection
from coca.search.records import Hit

QUERIES = ("puppies", "red car", "something to drink")

CONTENDERS = 64
"""Nearest images of each query whose names are kept; a hybrid search ranks no others by image."""

HITS, CELL, IMAGE, LEFT, ROW, COLORS = 5, 138, 72, 172, 150, 128
"""Hits of a query; width of a hit, side of its image, width of the query and height of a row in
pixels; colours of the file."""

GREY, BLACK, LINE = (110, 110, 110), (16, 16, 16), (222, 222, 222)


KEY = "searches"
"""Name of the metadata in the file: JSON of the model's fingerprint, of the file name, cosine and
fused score of each hit of each query, and of the hits and nearest images of all."""


def write(
    path: Path,
    rows: Sequence[tuple[str, Sequence[Hit]]],
    *,
    fingerprint: str,
    contenders: Sequence[str] = (),
) -> None:
    """Draw the hits of each query, with the hits as metadata."""
    searches = {
        query: [
            {
                "file": Path(hit.path).name,
                "score": round(hit.score, 3),
                "fused_score": round(hit.fused_score or 0.0, 3),
            }
            for hit in hits
        ]
        for query, hits in rows
    }
    info = PngInfo()
    content = {"fingerprint": fingerprint, "searches": searches, "contenders": contenders}
    info.add_text(KEY, json.dumps(content), zip=True)
    draw(rows).quantize(COLORS).save(path, optimize=True, pnginfo=info)


def read(path: Path) -> Mapping[str, object]:
    """Read the metadata that `write` added."""
    with Image.open(path) as image:
        content: Mapping[str, object] = json.loads(image.info[KEY])
    return content


def draw(rows: Sequence[tuple[str, Sequence[Hit]]]) -> Image.Image:
    """Paste the images of all hits with their captions and scores, one query in a row."""
    canvas = Image.new("RGB", (LEFT + HITS * CELL + 14, len(rows) * ROW), "white")
    pen = ImageDraw.Draw(canvas)
    small, large = (ImageFont.load_default(size) for size in (13, 15))
    for number, (query, hits) in enumerate(rows):
        top = number * ROW
        if number:
            pen.line((14, top, canvas.width - 14, top), fill=LINE)
        pen.text((14, top + 48), "coca search", GREY, small)
        pen.text((14, top + 66), f'"{query}"', BLACK, large, stroke_width=0.4)
        for place, hit in enumerate(hits):
            middle = LEFT + place * CELL + CELL // 2
            image = Image.open(hit.path).convert("RGBA")
            image.thumbnail((IMAGE, IMAGE), Image.Resampling.LANCZOS)
            canvas.paste(image, (middle - image.width // 2, top + 14), image)
            name = hit.caption or Path(hit.path).stem
            shown = name if len(name) < 19 else f"{name[:17]}..."
            pen.text((middle, top + 104), shown, BLACK, small, anchor="mm")
            pen.text((middle, top + 124), f"{hit.score:.3f}", GREY, small, anchor="mm")
    return canvas


def main() -> None:
    """Search, draw and write the file."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("queries", nargs="*", default=QUERIES)
    options.add_argument("--uri", default="runs/demo/pictures.db")
    options.add_argument("--out", type=Path, default=Path("docs/search.png"))
    given = options.parse_args()
    with Collection.open(given.uri) as collection:
        engine = coca.SearchEngine(coca.load(), collection)
        rows = [(query, engine.search(query, k=HITS)) for query in given.queries]
        nearest = engine.search_batch(given.queries, k=CONTENDERS)
    found = [*nearest, *(hits for _, hits in rows)]
    contenders = sorted({Path(hit.path).name for hits in found for hit in hits})
    write(given.out, rows, fingerprint=engine.embedder.fingerprint, contenders=contenders)


if __name__ == "__main__":
    main()
