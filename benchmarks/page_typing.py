"""The page in chromium: first load with cold thumbnails, and a typed letter to its first image.

    .venv-page/bin/python benchmarks/page_typing.py --rows 100000

`make test-page` makes that environment. The collection is that of `page_wall.py`, filled once. Each
round starts `coca serve` without thumbnails, waits until it has read the items, opens the page, and
types words letter by letter, each letter after the images of the last one. A letter ends when the
first image of its result is loaded. Every figure of the browser is one of software rendering.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from options import run
from page_wall import COMPLETE, FLAGS, TIMEOUT_MS, VIEWPORT, fill
from serve_load import serving
from side_by_side import Figures, Rounds, Unavailable, emit, figure, in_turn, table, write_report

from coca.inference import loading

WORDS = ("red car", "a dog", "beach", "boat on water")
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
UNITS = {"*, s": "s", "*, ms": "ms", "requests": "count", "shift": "count"}
ROWS = {
    "first image, s": "first load to the first image, no thumbnails yet, s",
    "first images, s": "first load to all images of the viewport, s",
    "requests": "requests of the first load",
    "shift": "cumulative layout shift of the first load",
    "letter, ms": "a typed letter to the first image of its result, median, ms",
    "slow letter, ms": "the same, 90th percentile, ms",
}


def contestant(arguments: argparse.Namespace) -> None:
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        raise Unavailable("chromium is not installed: apt-get install chromium")
    folder = Path(arguments.folder)
    shutil.rmtree(folder / "thumbnails", ignore_errors=True)
    options = ("--model", arguments.model, "--device", "cpu")
    cold = ("--thumbnails", str(folder / "thumbnails"))
    with (
        serving(str(folder / "wall.db"), *options, *cold) as (host, port, _),
        sync_playwright() as playwright,
    ):
        address = f"http://{host}:{port}"
        while json.load(urlopen(f"{address}/readyz"))["reading"]:
            time.sleep(0.05)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page(viewport=VIEWPORT)
        tab.set_default_timeout(TIMEOUT_MS)
        tab.add_init_script(OBSERVE)
        figures = {**load(tab, address), **letters(tab)}
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
        "requests": sum(url.startswith(address) for url in requests),
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


def referee(arguments: argparse.Namespace) -> Rounds:
    with tempfile.TemporaryDirectory() as folder:
        model = loading.load(arguments.model, device="cpu")
        fill(str(Path(folder) / "wall.db"), model, arguments.rows, Path(folder) / "images")
        shared = [f"--model={arguments.model}", f"--folder={folder}", "--contestant=page"]
        rounds = in_turn({"page": shared}, rounds=arguments.rounds)
    runs: list[Figures] = rounds["page"]
    write_report(
        arguments,
        rounds,
        "page-typing",
        f"Loading and typing on the page over {arguments.rows:,} images",
        f"Model `{arguments.model}`, Milvus Lite, chromium without a graphics processor, viewport "
        f"of {VIEWPORT['width']} x {VIEWPORT['height']} pixels.",
        table(
            ["", "median (range)"],
            [[text, figure(runs, key).shown()] for key, text in ROWS.items()],
        ),
        packages=["playwright", "fastapi", "uvicorn", "pymilvus", "milvus-lite"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--rows", type=int, default=100_000, help="items (100,000)")
    options.add_argument("--folder", help=argparse.SUPPRESS)
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
