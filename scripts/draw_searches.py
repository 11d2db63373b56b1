"""Draw docs/search.png: the first hits of queries in the demo's collection, after `make demo`.

python scripts/draw_searches.py "puppies" "red car" "something to drink" --out docs/search.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import coca
from coca.demo.search import search_typed
from coca.search.milvus.collection import Collection
from coca.search.records import Hit

HITS, CELL, IMAGE, LEFT, ROW, COLORS = 5, 138, 72, 172, 150, 128
"""Hits of a query; width of a hit, side of its image, width of the query and height of a row in
pixels; colours of the file."""

GREY, BLACK, LINE = (110, 110, 110), (16, 16, 16), (222, 222, 222)


def draw(rows: list[tuple[str, list[Hit]]]) -> Image.Image:
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
    options.add_argument("queries", nargs="+")
    options.add_argument("--uri", default="runs/demo/pictures.db")
    options.add_argument("--out", type=Path, default=Path("docs/search.png"))
    given = options.parse_args()
    with Collection.open(given.uri) as collection:
        engine = coca.SearchEngine(coca.load(), collection)
        rows = [(query, search_typed(engine, query, k=HITS)) for query in given.queries]
    draw(rows).quantize(COLORS).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
