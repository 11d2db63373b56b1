"""How often a search for words of a scanned page finds it: by captions alone, and with OCR.

    python benchmarks/ocr_search.py --pages 60

The pages are parts of documents that nobody chose for this purpose: licences and the READMEs of
installed packages (`--texts`), one page of each, at a random place. Every second page is
photographed, see `ocr.py`. The files have names of a scanner. Pages are indexed by `coca index
--ocr`, which also generates captions. A query is three random words of a page, in their order; the
correct result is that page. Intervals are Wilson's (95 %), over the queries.
"""

import argparse
import re
import tempfile
import textwrap
from pathlib import Path

import numpy as np
from ocr import draw_page, photograph
from options import run
from side_by_side import Rounds, emit, in_turn, table, write_report

from coca.metrics.intervals import wilson_interval
from coca.search.search_options import Ranking
from coca.workflows.collections.collection_model import load_model, open_search
from coca.workflows.collections.index import index_images

TEXTS = "/usr/share/common-licenses,/usr/share/doc"
_NAMES = re.compile(r"(README|NEWS|FAQ|TODO)[^/]*|[^/]*\.txt|[A-Z].*", re.IGNORECASE)
LINES, LETTERS = 32, 62
"""Lines of a page, and letters of a line."""
WORDS = 3
"""Words of a query."""
RANKINGS = {
    "captions": ("captions of the model, and images", Ranking(captions="all", text_weight=0.0)),
    "ocr": ("the same with the text inside images", Ranking(captions="all")),
    "default": ("images and the text inside them, the default", Ranking()),
}
QUICK = {"pages": 4, "rounds": 1}


def pages_of(folders: str, count: int, random: np.random.Generator) -> list[list[str]]:
    """Draw pages of as many documents."""
    files = sorted(
        path
        for folder in folders.split(",")
        for path in Path(folder).rglob("*")
        if _NAMES.fullmatch(path.name) and path.is_file() and not path.is_symlink()
    )
    pages: list[list[str]] = []
    for row in random.permutation(len(files)):
        if len(pages) == count:
            break
        try:
            text = files[row].read_text(encoding="ascii")
        except (OSError, ValueError):
            continue
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, LETTERS)]
        start = int(random.integers(max(1, len(lines) - LINES)))
        page = lines[start : start + LINES]
        if len(words_of(page)) >= 40 and page not in pages:
            pages.append(page)
    if len(pages) < count:
        raise SystemExit(f"{folders} have {len(pages)} such documents: name others with --texts")
    return pages


def words_of(page: list[str]) -> list[str]:
    """List the distinct words of a page, in their order, without short ones."""
    return list(dict.fromkeys(re.findall(r"\b[a-zA-Z]{4,}\b|\b\d{3,}\b", " ".join(page).lower())))


def contestant(arguments: argparse.Namespace) -> None:
    random = np.random.default_rng(arguments.seed)
    pages = pages_of(arguments.texts, arguments.pages, random)
    queries = []
    for number, page in enumerate(pages):
        words = words_of(page)
        for _ in range(arguments.queries):
            drawn = sorted(random.choice(len(words), WORDS, replace=False))
            queries.append((" ".join(words[at] for at in drawn), number))
    with tempfile.TemporaryDirectory() as home:
        folder, uri = Path(home) / "scans", f"{home}/coca.db"
        folder.mkdir()
        for number, page in enumerate(pages):
            drawn_page = draw_page(page, number)
            path = folder / f"scan_{number:03}.jpg"
            if number % 2:
                path.write_bytes(photograph(drawn_page, number))
            else:
                drawn_page.save(path, "JPEG", quality=90)
        index_images([folder], load_model("everyday"), uri=uri, ocr=True)
        figures = {}
        with open_search(uri) as engine:
            for name, (_, ranking) in RANKINGS.items():
                ranks = []
                for text, number in queries:
                    hits = engine.search(text, k=5, ranking=ranking, match=False)
                    found = [Path(hit.path).stem for hit in hits]
                    wanted = f"scan_{number:03}"
                    ranks.append(found.index(wanted) if wanted in found else 5)
                figures[f"{name}_at_1"] = float(np.mean(np.array(ranks) < 1))
                figures[f"{name}_at_5"] = float(np.mean(np.array(ranks) < 5))
    emit(figures | {"queries": len(queries)})


def referee(arguments: argparse.Namespace) -> Rounds:
    options = [
        f"--{name}={getattr(arguments, name)}" for name in ("pages", "queries", "seed", "texts")
    ]
    rounds = in_turn({"search": ["--contestant=search", *options]}, rounds=1)
    (figures,) = rounds["search"]
    count = int(figures["queries"])

    def shown(name: str) -> str:
        low, high = wilson_interval(figures[name], count)
        return f"{figures[name]:.3f} ({low:.3f} to {high:.3f})"

    rows = [
        [title, shown(f"{name}_at_1"), shown(f"{name}_at_5")]
        for name, (title, _) in RANKINGS.items()
    ]
    write_report(
        arguments,
        rounds,
        "ocr-search",
        f"Search for {WORDS} words of {arguments.pages} scanned pages, {count} queries",
        table(["ranked by", "success@1", "success@5"], rows),
        packages=("rapidocr", "onnxruntime"),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=60, help="pages (default 60)")
    parser.add_argument("--queries", type=int, default=2, help="queries of a page (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of pages and queries")
    parser.add_argument("--texts", default=TEXTS, help=f"folders of documents (default {TEXTS})")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units={"*_at_*": "share"})
