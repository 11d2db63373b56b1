"""Marks of a query and saved searches on the page."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from server_process import data_uri
from tiny_data import image_bytes

pytestmark = pytest.mark.page


def test_a_marked_query_is_saved_counts_new_images_and_opens_again(
    visit: Callable[..., Any], address: str
) -> None:
    tab = visit("/?q=a+red+circle")
    tiles = tab.locator(".tile-link")
    wrong, right = (tiles.nth(place).get_attribute("aria-label") for place in (1, 2))
    for name, label in (("Less like this", wrong), ("More like this", right)):
        tab.locator(".tile", has=tab.get_by_label(label, exact=True)).first.hover()
        tab.get_by_role("button", name=f"{name}: {label}").click()
        expect(tab.get_by_label(f"Remove: {name.removesuffix(' this')} this image")).to_be_visible()
    expect(tab.get_by_role("link", name=wrong, exact=True)).to_have_count(0)
    marked = tab.url
    tab.get_by_role("button", name="Save this search").click()
    tab.get_by_label("Name").fill("red ones")
    tab.keyboard.press("Enter")
    expect(tab.locator(".toast")).to_contain_text("Saved: red ones")
    image = {"image": data_uri(image_bytes(77))}
    added = tab.request.post(f"{address}/v1/items", data=image).json()["id"]
    tab.goto(address)
    tab.get_by_role("button", name="Saved searches").click()
    saved = tab.locator(".saved-search", has_text="red ones")
    expect(saved).to_contain_text("1 image new")
    tab.get_by_role("button", name="red ones", exact=True).click()
    expect(tab).to_have_url(marked)
    tab.get_by_role("button", name="Saved searches").click()
    tab.get_by_role("button", name="Delete red ones").click()
    expect(saved).to_have_count(0)
    tab.request.delete(f"{address}/v1/items/{added}")
