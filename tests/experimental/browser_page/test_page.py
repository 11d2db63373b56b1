"""The static page of `coca export --format browser` in a real browser, served by plain HTTP."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed: make test-page")

from coca.core.progress import silent
from page_service import ARGUMENTS, AXE, CHROMIUM, Watch, write_images

pytestmark = pytest.mark.page

PACKAGES = AXE.parent.parent
TIMEOUT_MS = 120_000
ITEMS = 13
ROUNDING = 6e-3
"""Maximum difference of the cosines of two items that the page may swap. Rounding to 8 bits changes
a cosine by about 0.001 (one standard deviation, of vectors as short as these)."""
TEXTS = ("a red circle", "blue", "circles", "Two triangles, it's green!")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """An exported model, a collection of its vectors, and the static page of both."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    if not (PACKAGES / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: make test-page")
    import coca
    from coca.workflows.collections.index import index_images
    from tiny_model import write_model

    root = tmp_path_factory.mktemp("static")
    model, uri = write_model(root / "model"), str(root / "images.db")
    index_images([write_images(root / "images")], coca.load(model, device="cpu"), uri=uri)
    onnx, page = root / "onnx", root / "page"
    export(model, onnx, "--format", "onnx")
    given = (f"{key}={value}" for key, value in options(uri).items())
    export(onnx, page, "--format", "browser", *(word for it in given for word in ("--option", it)))
    return onnx, uri, page


def export(*words: str | Path) -> None:
    """Export in another process, where no shapes are checked."""
    subprocess.run([sys.executable, "-m", "coca", "export", *map(str, words)], check=True)


def options(uri: str) -> dict[str, str]:
    return {"uri": uri, "packages": str(PACKAGES)}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *words: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder by plain HTTP; yield its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def tab(folders: tuple[Path, str, Path]) -> Iterator[Any]:
    """The page in a browser that reports faults of its scripts."""
    from playwright.sync_api import sync_playwright

    watch = Watch()
    with served(folders[2]) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = browser.new_page()
        tab.set_default_timeout(TIMEOUT_MS)
        watch.follow(tab)
        tab.goto(address)
        tab.wait_for_selector(".tile")
        yield tab
        browser.close()
    assert watch.faults == []


def ids(tab: Any, count: int) -> list[str]:
    return tab.locator(".tile").evaluate_all("all => all.map(one => one.dataset.id)")[:count]


def wait_for_hits(tab: Any, name: str) -> None:
    # Not by `wait_for_function`, whose polling the policy of the page forbids.
    from playwright.sync_api import expect

    status = tab.locator("#status")
    expect(status).to_have_text(re.compile(f"^{re.escape(name)}: "), timeout=TIMEOUT_MS)


def assert_equal_ranks(tab: Any, hits: list[Any]) -> None:
    """Compare the first ten items of the page with hits; see `ROUNDING` for their order."""
    cosines = {hit.id: hit.score for hit in hits}
    found = ids(tab, 10)
    assert len(set(found)) == 10
    assert tab.locator(".tile").count() == ITEMS
    wanted = [hit.score for hit in hits[:10]]
    np.testing.assert_allclose([cosines[id] for id in found], wanted, atol=ROUNDING)
    shown = tab.locator(".tile").evaluate_all("all => all.map(one => Number(one.dataset.score))")
    np.testing.assert_allclose(shown[:10], wanted, atol=ROUNDING)


def test_typed_texts_find_what_coca_search_finds(tab: Any, folders: tuple[Path, str, Path]) -> None:
    from coca.workflows.collections.collection_model import open_search

    model, uri, _ = folders
    with open_search(uri, model=model) as engine:
        for text in TEXTS:
            expected = engine.search(text, limit=30, hybrid=False)
            # The key of the page, not a click; within the field it is a character.
            tab.locator("#text").blur()
            tab.keyboard.press("/")
            tab.keyboard.type(text)
            tab.keyboard.press("Enter")
            wait_for_hits(tab, f"“{text}”")
            assert_equal_ranks(tab, expected)
    tab.go_back()
    wait_for_hits(tab, f"“{TEXTS[-2]}”")


def test_a_page_without_the_packages_is_an_error(
    folders: tuple[Path, str, Path], tmp_path: Path
) -> None:
    from coca.core.errors import ConfigError, SearchError
    from coca.experimental.browser_page.export import write

    model, uri, _ = folders
    out = tmp_path / "page"
    with pytest.raises(ConfigError, match=r"has no onnxruntime-web with the file dist/ort\."):
        write(str(model), out, options=options(uri) | {"packages": str(tmp_path)}, progress=silent)
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    manifest = (changed / "manifest.json").read_text()
    fingerprint = manifest.split('"fingerprint": "')[1].split('"')[0]
    (changed / "manifest.json").write_text(manifest.replace(fingerprint, "0" * len(fingerprint)))
    with pytest.raises(SearchError, match=r"was filled by model .*, and not by 000"):
        write(str(changed), out, options=options(uri), progress=silent)
    assert not out.exists()
