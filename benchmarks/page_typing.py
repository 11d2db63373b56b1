"""The page in chromium: first load with cold thumbnails, a typed letter, a jump to random items.

    .venv-page/bin/python benchmarks/page_typing.py --rows 100000

`make test-page` makes that environment. A collection of a SQLite file with random vectors and small
JPEG files is filled once. Each round starts `coca serve` without thumbnails, waits until it has
read the items, opens the page, and types words letter by letter, each letter after the images of
the last one. A letter ends when the first image of its result is loaded. Then the page scrolls to
random places; a jump ends when all tiles in the viewport have their image. Every figure of the
browser is one of software rendering.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from options import run
from PIL import Image
from serve_load import serving
from side_by_side import (
    Figures,
    Rounds,
    Unavailable,
    emit,
    figure,
    in_turn,
    resident_mb,
    table,
    write_report,
)

from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.records import Record, content_id, record_id
from coca.search.stores import open_collection
from coca.workflows.collections.collection_model import lasting_name

VIEWPORT = {"width": 1280, "height": 800}
FLAGS = ["--no-sandbox", "--disable-gpu"]
TIMEOUT_MS = 600_000
JUMPS = 30
TAGS = ("dog", "cat", "sea", "city", "tree", "car", "house", "boat", "food", "bird")
WORDS = ("red car", "a dog", "beach", "boat on water")
COMPLETE = """() => {
  const seen = [...document.querySelectorAll(".tile")].filter(tile => {
    const box = tile.getBoundingClientRect();
    return box.top < innerHeight && box.bottom > 0;
  });
  return seen.length > 0 && seen.every(tile => tile.querySelector("img.loaded"));
}"""
FIRST = "() => document.querySelector('.tile img.loaded')"
OBSERVE = """
globalThis.shifts = 0;
new PerformanceObserver(list => {
  for (const one of list.getEntries()) if (!one.hadRecentInput) shifts += one.value;
}).observe({type: "layout-shift", buffered: true});
"""
TYPE = """async text => {
  for (const tile of document.querySelectorAll(".tile")) tile.classList.add("old");
  const field = document.querySelector("#search-text");
  const started = performance.now();
  field.value = text;
  field.dispatchEvent(new InputEvent("input", {bubbles: true}));
  while (!document.querySelector(".tile:not(.old) img.loaded"))
    await new Promise(requestAnimationFrame);
  return performance.now() - started;
}"""

QUICK = {"rows": 500, "rounds": 1}
UNITS = {
    "*, s": "s",
    "*, ms": "ms",
    "requests *": "count",
    "shift": "count",
    "tiles": "count",
    "*, MB": "MB",
}
ROWS = {
    "first image, s": "first load to the first image, no thumbnails yet, s",
    "first images, s": "first load to all images of the viewport, s",
    "requests to the service": "requests of the first load",
    "requests to others": "requests to other hosts",
    "shift": "cumulative layout shift of the first load",
    "letter, ms": "a typed letter to the first image of its result, median, ms",
    "slow letter, ms": "the same, 90th percentile, ms",
    "jump, s": "jump to a random place until its images are shown, median, s",
    "slowest jump, s": "slowest jump, s",
    "tiles": "tiles in the document after the jumps",
    "memory, MB": "memory of the service at the end, MB",
}


def records(rows: int, folder: Path, embed_dim: int) -> Iterator[Record]:
    """Make items of random vectors, each with an image file, captions, tags, album and a date."""
    random = np.random.default_rng(0)
    encoded = []
    for number in range(64):
        size = ((320, 240), (240, 320), (256, 256))[number % 3]
        pixels = random.integers(0, 256, (6, 8, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG")
        encoded.append((size, stream.getvalue()))
    for row in range(rows):
        size, jpeg = encoded[row % len(encoded)]
        # Decoders ignore what follows the image, so that equal pixels have ids of their own.
        data = jpeg + row.to_bytes(4, "big")
        path = folder / f"{row // 1_000:03}" / f"photo-{row:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        vector = random.standard_normal(embed_dim, np.float32)
        caption = f"a {TAGS[row % 10]} next to a {TAGS[row // 10 % 10]}, number {row}"
        yield Record(
            id=record_id(str(path)),
            path=str(path),
            content=content_id(data),
            caption=caption,
            width=size[0],
            height=size[1],
            time=1_700_000_000 - 600 * row,
            tags=(TAGS[row % 10], TAGS[row // 10 % 10]),
            album=f"album {row // 500}",
            metadata={"captions": [caption], "name": path.name, "year": 2023 - row // 52_560},
            vector=vector / np.linalg.norm(vector),
        )


def fill(uri: str, model: TorchPredictor, rows: int, folder: Path) -> None:
    with open_collection(
        uri,
        embed_dim=model.embed_dim,
        fingerprint=model.fingerprint,
        model=lasting_name(model),
        create=True,
    ) as collection:
        collection.upsert(records(rows, folder, model.embed_dim))
        collection.flush()


def contestant(arguments: argparse.Namespace) -> None:
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        raise Unavailable("chromium is not installed: apt-get install chromium")
    folder = Path(arguments.folder)
    shutil.rmtree(folder / "thumbnails", ignore_errors=True)
    options = ("--model", arguments.model, "--device", "cpu")
    cold = ("--thumbnails", str(folder / "thumbnails"))
    with (
        serving(str(folder / "wall.db"), *options, *cold) as (host, port, pid),
        sync_playwright() as playwright,
    ):
        address = f"http://{host}:{port}"
        while json.load(urlopen(f"{address}/readyz"))["reading"]:
            time.sleep(0.05)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page(viewport=VIEWPORT)
        tab.set_default_timeout(TIMEOUT_MS)
        tab.add_init_script(OBSERVE)
        figures = {**load(tab, address), **letters(tab), **jumps(tab)}
        figures["memory, MB"] = resident_mb(pid)
        browser.close()
    emit(figures)


def load(tab: Any, address: str) -> Figures:
    """Open the page for the first time."""
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    started = time.perf_counter()
    tab.goto(address, wait_until="commit")
    tab.wait_for_function(FIRST)
    first = time.perf_counter() - started
    tab.wait_for_function(COMPLETE)
    complete = time.perf_counter() - started
    tab.wait_for_load_state("networkidle")
    return {
        "first image, s": first,
        "first images, s": complete,
        "requests to the service": sum(url.startswith(address) for url in requests),
        "requests to others": sum(
            not url.startswith((address, "data:", "blob:")) for url in requests
        ),
        "shift": tab.evaluate("shifts"),
    }


def letters(tab: Any) -> Figures:
    """Type words letter by letter."""
    waits = []
    for word in WORDS:
        for end in range(1, len(word) + 1):
            # A space alone changes nothing.
            if word[end - 1] != " ":
                waits.append(tab.evaluate(TYPE, word[:end]))
                tab.wait_for_function(COMPLETE)
        tab.evaluate(TYPE, "")
        tab.wait_for_function(COMPLETE)
    tenths = statistics.quantiles(waits, n=10)
    return {"letter, ms": statistics.median(waits), "slow letter, ms": tenths[-1]}


def jumps(tab: Any) -> Figures:
    """Scroll to random places."""
    waits = []
    for part in np.random.default_rng(1).random(JUMPS):
        started = time.perf_counter()
        tab.evaluate("part => scrollTo(0, part * document.body.scrollHeight)", float(part))
        tab.wait_for_function(COMPLETE)
        waits.append(time.perf_counter() - started)
    return {
        "jump, s": statistics.median(waits),
        "slowest jump, s": max(waits),
        "tiles": tab.locator(".tile").count(),
    }


def referee(arguments: argparse.Namespace) -> Rounds:
    with tempfile.TemporaryDirectory() as folder:
        model = load_coca(arguments.model, device="cpu")
        fill(str(Path(folder) / "wall.db"), model, arguments.rows, Path(folder) / "images")
        shared = [f"--model={arguments.model}", f"--folder={folder}", "--contestant=page"]
        rounds = in_turn({"page": shared}, rounds=arguments.rounds)
    runs: list[Figures] = rounds["page"]
    write_report(
        arguments,
        rounds,
        "page-typing",
        f"Loading, typing and jumping on the page over {arguments.rows:,} images",
        f"Model `{arguments.model}`, a SQLite file, chromium without a graphics processor, "
        f"viewport of {VIEWPORT['width']} x {VIEWPORT['height']} pixels.",
        table(
            ["", "median (range)"],
            [[text, figure(runs, key).shown()] for key, text in ROWS.items()],
        ),
        packages=["playwright", "fastapi", "uvicorn"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--rows", type=int, default=100_000, help="items (100,000)")
    options.add_argument("--folder", help=argparse.SUPPRESS)
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
