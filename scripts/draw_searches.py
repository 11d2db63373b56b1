"""Draw docs/search.jpg: the first photos of the demo that three queries find.

    python scripts/draw_searches.py

The hits are also in the file as metadata, so that `tests/workflows/demo/test_drawn_searches.py`
compares them with those of the present program.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw, ImageFont

import coca
from coca.predict.predictor import Predictor
from coca.search.ingest.encoding import Encoder
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.sources import FileSource
from coca.search.records import Hit
from coca.workflows.collections.collection_model import open_collection
from coca.workflows.demo.run import write_photos

QUERIES = ("boat on the water", "food on a plate", "sunset at the sea")

HITS, SIDE, GAP, LEFT, LINE = 6, 132, 6, 168, 20
"""Hits of a query; side of a photo, distance of photos, width of the query, and height of the line
of a score, in pixels."""
ROW = SIDE + LINE + GAP

GREY, BLACK = (110, 110, 110), (16, 16, 16)


def search(model: Predictor, folder: Path, queries: Sequence[str], k: int) -> list[list[Hit]]:
    """Index the photos of the demo in a folder, and search them."""
    write_photos(folder / "photos")
    with open_collection(model, str(folder / "photos.db"), create=True) as collection:
        ingest([FileSource([folder / "photos"])], Encoder(model, collection.info), collection)
        return coca.SearchEngine(model, collection).search_batch(list(queries), limit=k)


def write(path: Path, rows: Mapping[str, Sequence[Hit]], *, fingerprint: str) -> None:
    """Draw the hits of each query, with the hits as metadata."""
    searches = {
        query: {Path(hit.path).name: round(hit.score, 3) for hit in hits}
        for query, hits in rows.items()
    }
    comment = json.dumps({"fingerprint": fingerprint, "searches": searches})
    draw(rows).save(path, quality=85, optimize=True, comment=comment)


def read(path: Path) -> Mapping[str, object]:
    """Read the metadata that `write` added: the model's fingerprint, and the cosines of the files.

    The hits of a query are in their order.
    """
    with Image.open(path) as image:
        content: Mapping[str, object] = json.loads(image.info["comment"])
    return content


def draw(rows: Mapping[str, Sequence[Hit]]) -> Image.Image:
    """Paste the photos of all hits with their scores, one query in a row."""
    width = LEFT + HITS * (SIDE + GAP)
    canvas = Image.new("RGB", (width, len(rows) * ROW), "white")
    pen = ImageDraw.Draw(canvas)
    small, large = (ImageFont.load_default(size) for size in (13, 15))
    for number, (query, hits) in enumerate(rows.items()):
        top = number * ROW
        pen.text((8, top + SIDE // 2 - 20), "coca search", GREY, small)
        pen.text((8, top + SIDE // 2 - 2), f'"{query}"', BLACK, large, stroke_width=0.4)
        for place, hit in enumerate(hits):
            left = LEFT + place * (SIDE + GAP)
            with Image.open(hit.path) as image:
                photo = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            canvas.paste(photo, (left, top))
            score = (left + SIDE // 2, top + SIDE + LINE // 2)
            pen.text(score, f"{hit.score:.3f}", GREY, small, anchor="mm")
    return canvas


def main() -> None:
    """Search, draw and write the file."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("queries", nargs="*", default=QUERIES)
    options.add_argument("--out", type=Path, default=Path("docs/search.jpg"))
    given = options.parse_args()
    model = coca.load()
    with TemporaryDirectory() as folder:
        found = search(model, Path(folder), given.queries, HITS)
        rows = dict(zip(given.queries, found, strict=True))
        write(given.out, rows, fingerprint=model.fingerprint)


if __name__ == "__main__":
    main()
