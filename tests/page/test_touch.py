"""Touch: check boxes, and controls that a finger sees."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

pytestmark = pytest.mark.page

Visit = Callable[..., Any]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_a_finger_selects_by_check_boxes(visit: Visit) -> None:
    tab = visit("/", **PHONE)
    tiles = tab.locator(".tile[data-id]")
    expect(tiles.first.locator("img.loaded")).to_be_visible()
    bar = tab.locator("#selection")
    for number, text in ((0, "1 image selected"), (1, "2 images selected")):
        tiles.nth(number).locator(".tile-check").tap()
        expect(bar).to_contain_text(text)
    bar.get_by_role("button", name="Clear the selection").tap()
    tiles.nth(2).locator(".tile-link").tap()
    expect(tab.locator("dialog.item")).to_be_visible()
