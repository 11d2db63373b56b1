"""Touch: check boxes, swipes, and the place of what a finger needs."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from page_service import PHONE

pytestmark = pytest.mark.page

Visit = Callable[..., Any]


def test_a_finger_selects_by_check_boxes(visit: Visit) -> None:
    tab = visit("/", **PHONE)
    tiles = tab.locator(".tile[data-id]")
    expect(tiles.first.locator("img.loaded")).to_be_visible()
    bar = tab.locator("#selection")
    expect(tiles.first.locator(".tile-check")).to_be_hidden()
    tab.get_by_role("button", name="Select", exact=True).tap()
    for number, text in ((0, "1 image selected"), (1, "2 images selected")):
        tiles.nth(number).locator(".tile-check").tap()
        expect(bar).to_contain_text(text)
    # All that can be done with them is on the screen, in words.
    names = ["More like these", "Tag", "Favourite", "Hide", "Download"]
    boxes = [bar.get_by_text(name, exact=True).bounding_box() for name in names]
    assert all(box["x"] >= 8 and box["x"] + box["width"] <= 382 for box in boxes)
    assert bar.bounding_box()["height"] < 844 / 5
    bar.get_by_role("button", name="Clear the selection").tap()
    tiles.nth(2).locator(".tile-link").tap()
    expect(tab.locator("dialog.item")).to_be_visible()


def test_a_row_of_suggestions_shows_that_there_are_more(visit: Visit) -> None:
    tab = visit("/", **PHONE)
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    tab.locator("#search-text").tap()
    tab.keyboard.type("tri")
    options = tab.locator(".suggestions [role=option]")
    expect(options.nth(1)).to_be_visible()
    tab.wait_for_load_state("networkidle")
    places = options.evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.top, box.left])"
    )
    assert len(places) > 1
    assert len({top for top, _ in places}) == 1
    assert places[1][1] < 390 - 20


def swipe(tab: Any, x: int, y: int) -> None:
    """Move a finger from the middle of the screen by some CSS pixels."""
    session = tab.context.new_cdp_session(tab)
    for kind, part in (("touchStart", 0), ("touchMove", 0.5), ("touchMove", 1), ("touchEnd", 1)):
        point = {"x": 195 + part * x, "y": 400 + part * y}
        points = [] if kind == "touchEnd" else [point]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_a_phone_shows_images_high_and_swipes_between_them(visit: Visit) -> None:
    tab = visit("/", **PHONE)
    tile = tab.locator('.tile[data-index="1"]')
    expect(tile.locator("img.loaded")).to_be_visible()
    assert tab.locator('.tile[data-index="0"]').bounding_box()["y"] < 844 / 4
    tops = tab.locator("#filters-toggle, #tools button:visible").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().top)"
    )
    assert max(tops) - min(tops) < 4
    tile.locator(".tile-link").tap()
    image = tab.locator(".item-image")
    names = [image.get_attribute("alt")]
    places = tab.locator(".item-bar > button").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.top, box.right])"
    )
    assert len({top for top, _ in places}) == 1
    assert max(right for _, right in places) <= 390
    # The title of the image passes behind the bar.
    color = tab.locator(".item-bar").evaluate("bar => getComputedStyle(bar).backgroundColor")
    assert color == "rgb(19, 17, 16)"
    for x in (-120, 120):
        swipe(tab, x, 0)
        expect(image).not_to_have_attribute("alt", names[-1])
        names.append(image.get_attribute("alt"))
    assert names[0] == names[2]
    swipe(tab, 0, 150)
    expect(tab.locator("dialog.item")).to_be_hidden()
