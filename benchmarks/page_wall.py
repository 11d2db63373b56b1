"""The web page over many images in chromium: first images, frames of a scroll, requests, memory.

    .venv-page/bin/python benchmarks/page_wall.py --rows 100000

`make test-page` makes that environment. A collection of Milvus Lite gets random vectors and a small
JPEG file an item, and `coca serve` runs on it in a process of its own. Once it has read the items,
chromium opens the page twice, scrolls slowly through images without thumbnails and again with them,
scrolls fast from the first item to the last, jumps to random places, to the end by its key, and
opens the last item by its address. A long task keeps the thread of the page for more than 50 ms. A
jump is complete when all tiles in the viewport have their image. Every figure of the browser is one
of software rendering.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from options import run
from PIL import Image
from serve_load import processor_seconds as processor_seconds_of
from serve_load import serving
from side_by_side import Figures, Rounds, Unavailable, emit, figure, in_turn, table, write_report

from coca.inference import loading
from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.records import Record, content_id
from coca.workflows.collections.collection_model import lasting_name

VIEWPORT = {"width": 1280, "height": 800}
FLAGS = ["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
TIMEOUT_MS = 600_000
TAGS = ("dog", "cat", "sea", "city", "tree", "car", "house", "boat", "food", "bird")

OBSERVE = """
globalThis.longTasks = [];
new PerformanceObserver(list => longTasks.push(...list.getEntries().map(one => one.duration)))
  .observe({type: "longtask", buffered: true});
"""
COMPLETE = """() => {
  const seen = [...document.querySelectorAll(".tile")].filter(tile => {
    const box = tile.getBoundingClientRect();
    return box.top < innerHeight && box.bottom > 0;
  });
  return seen.length > 0 && seen.every(tile => tile.querySelector("img.loaded"));
}"""
ENDED = """rows => document.querySelector(`.tile[aria-posinset="${rows}"]`)"""
SCROLL = """async ([step, most]) => {
  longTasks.length = 0;
  const frames = [];
  const end = () => scrollY + innerHeight >= document.documentElement.scrollHeight - 1;
  let [tiles, nodes, last] = [0, 0, await new Promise(requestAnimationFrame)];
  while (frames.length < most && !end()) {
    scrollBy(0, step);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
    if (frames.length % 20 === 0) {
      tiles = Math.max(tiles, document.querySelectorAll(".tile").length);
      nodes = Math.max(nodes, document.querySelectorAll("*").length);
    }
  }
  return {frames, tiles, nodes, long: longTasks};
}"""

QUICK = {"rows": 3_000, "frames": 100, "jumps": 5, "rounds": 1}
UNITS = {
    "*, s": "s",
    "read, processor s": "s",
    "*, ms": "ms",
    "*: frames": "count",
    "*: long tasks": "count",
    "*: images": "count",
    "most *": "count",
    "requests *": "count",
    "*, MB": "MB",
}
SPEEDS = {
    "slow": "slow scroll, no thumbnails yet",
    "again": "slow scroll again",
    "fast": "fast scroll from the first item to the last",
}
SCROLLED = {
    "frames": "frames",
    "frame p50, ms": "a frame: median, ms",
    "frame p99, ms": "a frame: 99th percentile, ms",
    "processor all, ms": "processor time of the page a frame, ms",
    "processor scripts, ms": "of it scripts, ms",
    "processor styles, ms": "of it styles, ms",
    "processor layout, ms": "of it layout, ms",
    "long tasks": "tasks above 50 ms",
    "longest task, ms": "longest task, ms",
    "images": "requests for thumbnails",
}
ROWS = {
    "read, s": "start of the service until its items are read, s",
    "read, processor s": "of it processor time of the service, s",
    "first images, s": "first visit: until all images of the viewport are shown, s",
    "images again, s": "second visit, s",
    **{
        f"{speed}: {name}": f"{text}: {part}"
        for speed, text in SPEEDS.items()
        for name, part in SCROLLED.items()
    },
    "jump, s": "jump to a random place until its images are shown, median, s",
    "slowest jump, s": "slowest jump, s",
    "End, s": "End key until the last images are shown, s",
    "link, s": "address of the last item until it is shown, s",
    "most tiles": "tiles in the document, at most",
    "most nodes": "elements in the document, at most",
    "heap, MB": "memory of the page's scripts at the end, MB",
    "requests for items": "requests for items",
    "requests for images": "requests for thumbnails",
    "requests to others": "requests to other hosts",
    "facets, s": "counts of all facets, s",
    "service before, MB": "memory of the service at its start, MB",
    "service listed, MB": "memory of the service after its items are read, MB",
    "service after, MB": "memory of the service at the end, MB",
    "cache, MB": "cached thumbnails, MB",
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
            id=content_id(data),
            path=str(path),
            caption=caption,
            width=size[0],
            height=size[1],
            time=1_700_000_000 - 600 * row,
            tags=(TAGS[row % 10], TAGS[row // 10 % 10]),
            album=f"album {row // 500}",
            metadata={"captions": [caption], "name": path.name, "year": 2023 - row // 52_560},
            vector=vector / np.linalg.norm(vector),
        )


def fill(uri: str, model: Predictor, rows: int, folder: Path) -> None:
    with Collection.open(
        uri,
        embed_dim=model.embed_dim,
        fingerprint=model.fingerprint,
        model=lasting_name(model),
        create=True,
    ) as collection:
        collection.upsert(records(rows, folder, model.embed_dim))
        collection.flush()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, MB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1_000


def visit(tab: Any, address: str) -> float:
    """Open the page, and return the seconds until all images of the viewport are shown."""
    started = time.perf_counter()
    tab.goto(address)
    tab.wait_for_function(COMPLETE)
    return time.perf_counter() - started


def processor_seconds(session: Any) -> dict[str, float]:
    """Return the processor time of the page so far: all tasks, and parts of it."""
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    parts = {"all": "Task", "scripts": "Script", "styles": "RecalcStyle", "layout": "Layout"}
    return {name: found[f"{metric}Duration"] for name, metric in parts.items()}


def scroll(tab: Any, step: int, frames: float, requests: Counter[str]) -> dict[str, float]:
    """Scroll a distance a frame, for some frames or to the end."""
    session = tab.context.new_cdp_session(tab)
    # Processor time of the thread of the page, which other work on the machine does not change.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before, requested = processor_seconds(session), requests["for images"]
    found = tab.evaluate(SCROLL, [step, frames])
    count = len(found["frames"])
    spent = {
        f"processor {name}, ms": 1e3 * (seconds - before[name]) / count
        for name, seconds in processor_seconds(session).items()
    }
    return {
        "frames": count,
        **{f"frame p{part}, ms": float(np.percentile(found["frames"], part)) for part in (50, 99)},
        **spent,
        "long tasks": len(found["long"]),
        "longest task, ms": max(found["long"], default=0.0),
        "images": requests["for images"] - requested,
        "tiles": found["tiles"],
        "nodes": found["nodes"],
    }


def scrolls(tab: Any, arguments: argparse.Namespace, requests: Counter[str]) -> Figures:
    """Scroll slowly, again, and fast to the end."""
    figures: Figures = {}
    most = {"tiles": 0.0, "nodes": 0.0}
    for speed in SPEEDS:
        tab.evaluate("scrollTo(0, 0)")
        tab.wait_for_function(COMPLETE)
        slow = speed != "fast"
        step, frames = (arguments.slow, arguments.frames) if slow else (arguments.step, 1e9)
        found = scroll(tab, step, frames, requests)
        most = {name: max(value, found.pop(name)) for name, value in most.items()}
        figures |= {f"{speed}: {name}": value for name, value in found.items()}
    return figures | {f"most {name}": value for name, value in most.items()}


def jumps(tab: Any, arguments: argparse.Namespace) -> Figures:
    """Jump to random places, and to the end."""
    figures: Figures = {}
    waits = []
    for part in np.random.default_rng(1).random(arguments.jumps):
        started = time.perf_counter()
        tab.evaluate("part => scrollTo(0, part * document.body.scrollHeight)", float(part))
        tab.wait_for_function(COMPLETE)
        waits.append(time.perf_counter() - started)
    figures["jump, s"], figures["slowest jump, s"] = statistics.median(waits), max(waits)
    tab.evaluate("scrollTo(0, 0)")
    tab.locator(".tile-link").first.focus()
    started = time.perf_counter()
    tab.keyboard.press("End")
    tab.wait_for_function(ENDED, arg=arguments.rows)
    tab.wait_for_function(COMPLETE)
    figures["End, s"] = time.perf_counter() - started
    figures["heap, MB"] = tab.evaluate("performance.memory.usedJSHeapSize") / 1e6
    return figures


def contestant(arguments: argparse.Namespace) -> None:
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        raise Unavailable("chromium is not installed: apt-get install chromium")
    model = loading.load(arguments.model, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        uri, cache = str(Path(folder) / "wall.db"), Path(folder) / "thumbnails"
        fill(uri, model, arguments.rows, Path(folder) / "images")
        options = ("--model", arguments.model, "--device", "cpu", "--thumbnails", str(cache))
        with serving(uri, *options) as (host, port, pid), sync_playwright() as playwright:
            address = f"http://{host}:{port}"
            before, requests = resident_mb(pid), Counter[str]()
            started, spent = time.perf_counter(), processor_seconds_of(pid)
            while json.load(urlopen(f"{address}/readyz"))["reading"]:
                time.sleep(0.05)
            read = {
                "read, s": time.perf_counter() - started,
                "read, processor s": processor_seconds_of(pid) - spent,
            }
            listed = resident_mb(pid)
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            tab = browser.new_page(viewport=VIEWPORT)
            tab.set_default_timeout(TIMEOUT_MS)
            tab.add_init_script(OBSERVE)
            tab.on("request", lambda request: requests.update([kind(request.url, address)]))
            figures: Figures = {**read, "first images, s": visit(tab, address)}
            tab.goto("about:blank")
            figures["images again, s"] = visit(tab, address)
            figures |= scrolls(tab, arguments, requests)
            figures |= jumps(tab, arguments)
            figures |= {f"requests {name}": requests[name] for name in ("for items", "for images")}
            last = tab.evaluate("document.querySelector('.tile:last-child').dataset.id")
            started = time.perf_counter()
            tab.goto(f"{address}/?item={last}")
            tab.wait_for_selector("dialog.item[open] img.loaded, dialog.item[open] .item-image")
            figures["link, s"] = time.perf_counter() - started
            figures["requests to others"] = requests["to others"]
            browser.close()
            body = json.dumps({}).encode()
            started = time.perf_counter()
            json_type = {"Content-Type": "application/json"}
            with urlopen(Request(f"{address}/v1/facets", body, json_type)) as answer:
                answer.read()
            figures["facets, s"] = time.perf_counter() - started
            figures["service before, MB"], figures["service listed, MB"] = before, listed
            figures["service after, MB"] = resident_mb(pid)
        figures["cache, MB"] = sum(one.stat().st_size for one in cache.rglob("*.jpg")) / 1e6
    emit(figures)


def kind(url: str, address: str) -> str:
    """Name what a request of the page asks for."""
    if not url.startswith((address, "data:", "blob:", "about:")):
        return "to others"
    if "/thumbnail" in url:
        return "for images"
    return "for items" if url.endswith("/v1/search") else "for the page"


def referee(arguments: argparse.Namespace) -> Rounds:
    options = ("model", "rows", "step", "slow", "frames", "jumps")
    shared = [f"--{name}={getattr(arguments, name)}" for name in options]
    rounds = in_turn({"page": [*shared, "--contestant=page"]}, rounds=arguments.rounds)
    runs: list[Figures] = rounds["page"]
    write_report(
        arguments,
        rounds,
        "page-wall",
        f"The page over {arguments.rows:,} images",
        f"Model `{arguments.model}`, Milvus Lite, chromium without a graphics processor, viewport "
        f"of {VIEWPORT['width']} x {VIEWPORT['height']} pixels. A slow scroll has {arguments.slow} "
        f"pixels a frame, a fast one {arguments.step}.",
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
    options.add_argument("--step", type=int, default=300, help="pixels a frame, fast (300)")
    options.add_argument("--slow", type=int, default=60, help="pixels a frame, slow (60)")
    options.add_argument("--frames", type=int, default=1_200, help="frames, slow (1,200)")
    options.add_argument("--jumps", type=int, default=30, help="jumps to random places (30)")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
