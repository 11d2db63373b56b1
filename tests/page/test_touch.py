"""Touch: a selection by long presses, swipes between images, and controls that a finger sees."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

pytestmark = pytest.mark.page

Visit = Callable[..., Any]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LONG_MS = 700


class Finger:
    """One finger on the screen of a tab."""

    def __init__(self, tab: Any) -> None:
        self._tab, self._session = tab, tab.context.new_cdp_session(tab)

    def _send(self, kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    def move(self, *points: tuple[float, float], hold_ms: int = 0) -> None:
        """Put the finger down, hold it, move it from point to point, and lift it."""
        self._send("touchStart", points[0])
        self._tab.wait_for_timeout(hold_ms)
        for point in points[1:]:
            self._send("touchMove", point)
        self._send("touchEnd")


def center(element: Any) -> tuple[float, float]:
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_long_press_begins_a_selection_and_taps_extend_it(visit: Visit) -> None:
    tab = visit("/", **PHONE)
    tiles = tab.locator(".tile[data-id]")
    expect(tiles.first.locator("img.loaded")).to_be_visible()
    finger, bar = Finger(tab), tab.locator("#selection")
    # Where the check box of the image appears under the finger.
    box = tiles.nth(0).bounding_box()
    finger.move((box["x"] + 20, box["y"] + 20), hold_ms=LONG_MS)
    tab.wait_for_timeout(LONG_MS)
    expect(bar).to_contain_text("1 image selected")
    expect(tab.locator("dialog[open]")).to_have_count(0)
    finger.move(center(tiles.nth(1)))
    expect(bar).to_contain_text("2 images selected")
    finger.move(center(tiles.nth(1)))
    expect(bar).to_contain_text("1 image selected")
    bar.get_by_role("button", name="Clear the selection").tap()
    finger.move(center(tiles.nth(1)))
    expect(tab.locator("dialog.item")).to_be_visible()


def test_a_finger_that_scrolls_selects_nothing(visit: Visit) -> None:
    tab = visit("/?c=many", **PHONE)
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    path = [(200.0, 600.0 - 30 * step) for step in range(12)]
    Finger(tab).move(*path)
    tab.wait_for_timeout(LONG_MS)
    assert tab.evaluate("scrollY") > 0
    expect(tab.locator("#selection")).to_be_hidden()


def test_a_swipe_shows_the_next_image(visit: Visit) -> None:
    tab = visit("/", **PHONE)
    tiles = tab.locator(".tile-link")
    names = [tiles.nth(n).get_attribute("aria-label") for n in range(2)]
    tiles.first.tap()
    image = tab.locator("dialog.item .item-image")
    expect(image).to_have_attribute("alt", names[0])
    x, y = center(image)
    left = [(x + 80 - 20 * step, y) for step in range(9)]
    Finger(tab).move(*left)
    expect(image).to_have_attribute("alt", names[1])
    Finger(tab).move(*reversed(left))
    expect(image).to_have_attribute("alt", names[0])


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
    Finger(tab).move(center(tiles.first), hold_ms=700)
    bar = tab.locator("#selection")
    expect(bar).to_be_visible()
    assert bar.bounding_box()["height"] < 70
    delete = bar.get_by_role("button", name="Delete")
    delete.scroll_into_view_if_needed()
    expect(delete).to_be_in_viewport()
