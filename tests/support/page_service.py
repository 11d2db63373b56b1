"""A `coca serve` process over rendered images, and a watch over the requests of its page."""

import io
import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
AXE = ROOT / ".venv-page" / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
KEY = "a-key-of-the-tests-of-the-page-with-its-letters"
"""Key of the service that needs one."""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SHAPES = ("circle", "square", "triangle")
COLORS = ("red", "orange", "green", "blue")
SIZES = ((300, 200), (200, 300), (240, 240))
FILE_DATE = 1_245_000_000
"""Modification time of the file without a time of capture: 14 June 2009."""
MANY = 20_000
"""Number of rows of the large collection."""


def render(shape: str, color: str, size: tuple[int, int]) -> Image.Image:
    """A shape in the middle of a plain background."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    x, y = size[0] / 2, size[1] / 2
    r = min(x, y) * 0.7
    match shape:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        case "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=color)
        case _:
            draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=color)
    return image


def write_images(folder: Path) -> Path:
    """Twelve images with captions, tags, albums and dates, and two near-duplicates."""
    folder.mkdir()
    for number, (shape, color) in enumerate((s, c) for s in SHAPES for c in COLORS):
        image = render(shape, color, SIZES[number % 3])
        image.save(folder / f"{color}-{shape}.png")
        record: dict[str, Any] = {
            "captions": [f"a {color} {shape}"],
            "tags": [shape, color],
            "album": f"{shape}s",
            "time": f"20{10 + number}-06-15",
            "camera": "compact" if number % 2 else "phone",
            "page": "https://example.org/photo",
        }
        (folder / f"{color}-{shape}.json").write_text(json.dumps(record))
    # The same pixels in other bytes, without a time of capture.
    copy = folder / "copy-of-circle.jpg"
    render("circle", "red", SIZES[0]).save(copy, quality=95)
    os.utime(copy, (FILE_DATE, FILE_DATE))
    copy.with_suffix(".json").write_text(json.dumps({"captions": ["a copy of the red circle"]}))
    return folder


def fill_many(uri: str, name: str, folder: Path, fingerprint: str, embed_dim: int) -> None:
    """Store vectors around a circle, each with a small image file of its own."""
    from coca.search.stores import open_collection

    folder.mkdir()
    encoded = io.BytesIO()
    render("square", "blue", (64, 48)).save(encoded, "JPEG")
    with open_collection(
        uri, name, embed_dim=embed_dim, fingerprint=fingerprint, model=str(folder), create=True
    ) as collection:
        for start in range(0, MANY, 2_000):
            rows = range(start, start + 2_000)
            collection.upsert([_row(n, encoded.getvalue(), folder, embed_dim) for n in rows])


def _row(number: int, encoded: bytes, folder: Path, embed_dim: int) -> Any:
    from coca.search.records import Record, content_id, record_id

    # Decoders ignore what follows the image, so that equal pixels are images of their own.
    data = encoded + number.to_bytes(4, "big")
    path = folder / f"{number:05}.jpg"
    path.write_bytes(data)
    vector = np.zeros(embed_dim, np.float32)
    angle = 2 * math.pi * number / MANY
    vector[:2] = math.cos(angle), math.sin(angle)
    return Record(
        id=record_id(str(path)),
        path=str(path),
        content=content_id(data),
        caption=f"row {number}",
        width=64,
        height=48,
        time=1_000_000_000 - number,
        vector=vector,
    )


def transfer(tab: Any, files: list[tuple[str, str, bytes]], kind: str = "drop") -> None:
    """Drop or paste files of a name, type and content on a page."""
    tab.evaluate(
        """([kind, files]) => {
          const dataTransfer = new DataTransfer();
          for (const [name, type, bytes] of files)
            dataTransfer.items.add(new File([new Uint8Array(bytes)], name, {type}));
          const options = {clientX: 10, bubbles: true, cancelable: true};
          document.body.dispatchEvent(kind === "drop"
            ? new DragEvent("drop", {...options, dataTransfer})
            : new ClipboardEvent("paste", {...options, clipboardData: dataTransfer}));
        }""",
        [kind, [(name, type, list(content)) for name, type, content in files]],
    )


@dataclass
class Watch:
    """What a page must not do: foreign requests, errors and violations of its policy."""

    faults: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)
    """HTTP statuses that a test causes on purpose; 0: no answer."""

    def follow(self, tab: Any) -> None:
        tab.on("request", self._request)
        tab.on("response", self._response)
        tab.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        tab.on("console", self._console)
        tab.add_init_script(
            "addEventListener('securitypolicyviolation', event => console.error("
            "`policy violation: ${event.violatedDirective} ${event.blockedURI}`))"
        )

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.faults.append(f"foreign request: {request.url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.faults.append(f"status {response.status}: {response.url}")

    def _console(self, message: Any) -> None:
        network = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not (network and self.expected):
            self.faults.append(f"console {message.type}: {message.text}")
