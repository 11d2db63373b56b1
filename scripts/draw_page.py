"""Draw docs/page.jpg and docs/item.jpg: a query over the photos of the demo, and an opened photo.

    python scripts/draw_page.py [CHROMIUM]

It needs playwright, as in .venv-page, and a chromium (/usr/bin/chromium).
"""

import subprocess
import sys
import time
import urllib.request
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import sync_playwright

import coca
from coca.workflows.demo.run import write_photos

QUERY, OPENED, PORT = "bird", "a white bird on the grass", 8765
"""Query of the page, and query whose first photo is opened."""
WIDTH, HEIGHT = 1280, 900
"""Size of the window, in pixels."""


def draw(folder: Path, chromium: str) -> dict[str, Image.Image]:
    """Index the photos of the demo in a folder, serve them, and return the pictures by name."""
    write_photos(folder / "photos")
    uri = str(folder / "photos.db")
    coca.index(folder / "photos", uri, captions=False)
    options = ["--uri", uri, "--port", str(PORT), "--thumbnails", str(folder / "thumbnails")]
    service = subprocess.Popen([str(Path(sys.executable).with_name("coca")), "serve", *options])
    try:
        wait_for(f"http://127.0.0.1:{PORT}/readyz")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, locale="en")
            page.goto(f"http://127.0.0.1:{PORT}/?q={QUERY}")
            page.wait_for_load_state("networkidle")
            contents = {"page": page.screenshot()}
            page.goto(f"http://127.0.0.1:{PORT}/?q={quote(OPENED)}")
            page.locator(".tile-link").first.click()
            page.keyboard.press("i")
            page.wait_for_selector(".why-word")
            page.wait_for_load_state("networkidle")
            contents["item"] = page.screenshot()
            browser.close()
    finally:
        service.terminate()
        service.wait()
    return {name: Image.open(BytesIO(content)).convert("RGB") for name, content in contents.items()}


def wait_for(url: str, *, timeout_s: float = 60) -> None:
    """Wait until an address answers."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def main() -> None:
    """Write the pictures."""
    chromium = sys.argv[1] if len(sys.argv) > 1 else "/usr/bin/chromium"
    with TemporaryDirectory() as folder:
        pictures = draw(Path(folder), chromium)
    for name, picture in pictures.items():
        out = Path(__file__).parents[1] / "docs" / f"{name}.jpg"
        picture.save(out, quality=80, optimize=True)
        sys.stdout.write(f"{out}: {out.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()
