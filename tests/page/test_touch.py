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


def test_the_arrows_are_seen_on_a_white_image(visit: Visit) -> None:
    tab = visit("/", **PHONE)
    tab.locator(".tile-link").first.tap()
    arrow = tab.get_by_role("button", name="Next image")
    expect(arrow).to_be_visible()
    ink, ground = arrow.evaluate(
        """element => {
          const style = getComputedStyle(element);
          return [style.color, style.backgroundColor]
            .map(color => color.match(/[\\d.]+/g).map(Number));
        }"""
    )
    # Over white: the background is blended with it.
    dark = [255 - ground[3] * (255 - part) for part in ground[:3]]
    assert ink[:3] == [255, 255, 255]
    assert max(dark) < 120


def test_a_query_and_a_selection_leave_the_screen_to_the_images(visit: Visit) -> None:
    tab = visit("/?q=circle&tag=circle", **PHONE)
    tiles = tab.locator(".tile[data-id]")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    above = tab.locator(".header").bounding_box()["height"]
    # The row of the view, that of the order, and that of the chips.
    assert tiles.first.bounding_box()["y"] - above < 170
    tiles.first.locator(".tile-check").tap()
    bar = tab.locator("#selection")
    expect(bar).to_be_visible()
    assert bar.bounding_box()["height"] < 70
    hide = bar.get_by_role("button", name="Hide")
    hide.scroll_into_view_if_needed()
    expect(hide).to_be_in_viewport()
