"""A browser on a real service: failing on foreign requests, errors and policy violations."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from page_service import ARGUMENTS, CHROMIUM, KEY, Watch, fill_many, write_images
from server_process import serving

TIMEOUT_MS = int(os.environ.get("PAGE_TIMEOUT_MS", 600_000))
"""The time of a response depends on the load of the machine."""


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, str]]:
    """Cache, arguments and environment of a service over a small and a large collection."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    import coca
    from coca.workflows.collections.index import index_images
    from tiny_model import write_model

    root = tmp_path_factory.mktemp("page")
    model = write_model(root / "model")
    predictor = coca.load(model, device="cpu")
    uri = str(root / "images.db")
    index_images([write_images(root / "images")], predictor, uri=uri)
    fill_many(uri, "many", root / "small", predictor.fingerprint, predictor.embed_dim)
    names = ["--collection", "pictures", "--collection", "many"]
    # The service lacks the extra `heif`.
    (root / "sitecustomize.py").write_text("import sys\nsys.modules['pillow_heif'] = None\n")
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = ["--uri", uri, *names, "--model", str(model)]
    return root / "cache", arguments, {"PYTHONPATH": path}


@pytest.fixture(scope="session")
def address(command: tuple[Path, list[str], dict[str, str]]) -> Iterator[str]:
    """The address of `coca serve`."""
    cache, arguments, environment = command
    with serving(*arguments, cache=cache, environment=environment) as found:
        yield found.url


@pytest.fixture(scope="module")
def keyed_address(command: tuple[Path, list[str], dict[str, str]]) -> Iterator[str]:
    """The address of a service over the same collections that answers with `KEY` only."""
    cache, arguments, environment = command
    keys = environment | {"COCA_API_KEYS": KEY}
    with serving(*arguments, cache=cache, environment=keys) as found:
        yield found.url


@pytest.fixture(scope="session")
def routes(address: str) -> set[str]:
    """The paths of the service's routes."""
    with urlopen(f"{address}/openapi.json") as answer:
        return set(json.load(answer)["paths"])


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One chromium for all pages: Playwright allows one at a time."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watched = Watch()
    yield watched
    assert watched.faults == []


@pytest.fixture
def visit(address: str, browser: Any, watch: Watch) -> Iterator[Callable[..., Any]]:
    """Open a path of the page in a fresh context of the browser."""
    contexts = []

    def open_tab(path: str = "/", *, at: str = address, **options: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 800}, "accept_downloads": True} | options
        context = browser.new_context(**settings)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(TIMEOUT_MS)
        watch.follow(tab)
        tab.goto(at + path)
        tab.wait_for_selector("#tools button")
        return tab

    yield open_tab
    for context in contexts:
        for tab in context.pages:
            tab.unroute_all(behavior="ignoreErrors")
        context.close()
