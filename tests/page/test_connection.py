"""The page and its service: keys, limits of rate, a slow service, and one that ends."""

import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from page_service import Watch

pytestmark = pytest.mark.page

Visit = Callable[..., Any]
SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
  }).observe({type: "layout-shift", buffered: true});
}"""


def refuse(route: Any, status: int, **headers: str) -> None:
    error = {"message": "no", "type": "error", "code": None}
    route.fulfill(status=status, json={"error": error}, headers=headers)


def with_key(tab: Any, key: str) -> None:
    """Answer only requests with a key, as a service with keys does."""

    def check(route: Any) -> None:
        if route.request.headers.get("authorization") == f"Bearer {key}":
            route.fallback()
        else:
            refuse(route, 401)

    tab.route("**/v1/**", check)
    tab.reload()


def enter(tab: Any, key: str) -> None:
    tab.fill("#dialog-input", key)
    tab.get_by_role("button", name="Continue").click()


def test_a_wrong_key_is_refused_in_words(visit: Visit, watch: Watch) -> None:
    watch.expected.add(401)
    tab = visit()
    with_key(tab, "right")
    expect(tab.locator(".dialog")).to_have_count(1)
    expect(tab.locator(".field-error")).to_have_count(0)
    enter(tab, "wrong")
    expect(tab.locator(".field-error")).to_have_text("The service does not accept this key.")
    expect(tab.locator(".dialog")).to_have_count(1)
    enter(tab, "right")
    expect(tab.locator("#summary")).to_have_text("13 images")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()


def test_a_cancelled_key_can_be_entered_later(visit: Visit, watch: Watch) -> None:
    watch.expected.add(401)
    tab = visit()
    with_key(tab, "right")
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.locator("#message h2")).to_have_text("This service needs a key")
    tab.get_by_role("button", name="Enter a key").click()
    enter(tab, "right")
    expect(tab.locator("#summary")).to_have_text("13 images")


def test_an_original_is_opened_and_saved_with_a_key(visit: Visit, watch: Watch) -> None:
    watch.expected.add(401)
    tab = visit()
    with_key(tab, "right")
    enter(tab, "right")
    tab.get_by_label("a red circle", exact=True).click()
    tab.keyboard.press("i")
    # A request of another tab passes no route of this one: the service itself has no keys.
    with tab.expect_popup() as opened:
        tab.get_by_role("link", name="Open the original").click()
    opened.value.wait_for_url("blob:**")
    expect(opened.value.locator("img")).to_be_visible()
    assert opened.value.evaluate("[document.images[0].naturalWidth, opener]") == [300, None]
    with tab.expect_download() as download:
        tab.locator("dialog.item").get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "red-circle.png"


def test_a_request_above_the_rate_is_repeated(visit: Visit, watch: Watch) -> None:
    watch.expected.add(429)
    tab = visit()
    refused: set[str] = set()

    def limit(route: Any) -> None:
        if route.request.url in refused:
            route.fallback()
        else:
            refused.add(route.request.url)
            refuse(route, 429, **{"Retry-After": "1"})

    tab.evaluate("sessionStorage.setItem('coca.key', 'any')")
    tab.route("**/v1/search", limit)
    tab.reload()
    expect(tab.locator(".tile img.loaded")).to_have_count(13)
    expect(tab.locator(".tile-broken, .toast")).to_have_count(0)
    assert len(refused) == 1


def test_the_first_load_searches_once_and_stays_in_place(visit: Visit) -> None:
    tab = visit("/", viewport={"width": 1_440, "height": 900})
    tab.add_init_script(f"({SHIFTS})()")
    searches: list[str] = []
    tab.on("request", lambda request: searches.append(request.url))
    tab.reload()
    expect(tab.locator(".tile img.loaded")).to_have_count(13)
    expect(tab.locator(".facet-value").first).to_be_visible()
    assert sum(url.endswith("/v1/search") for url in searches) == 1
    assert tab.evaluate("shifts") < 0.05


def test_old_results_stay_until_the_new_ones_are_there(visit: Visit) -> None:
    tab = visit()
    expect(tab.locator(".tile img.loaded")).to_have_count(13)
    before = tab.locator(".tile-link").first.get_attribute("aria-label")
    held: list[Any] = []
    tab.route("**/v1/search", lambda route: held.append(route))
    tab.fill("#search-text", "a red circle")
    tab.keyboard.press("Enter")
    expect(tab.locator(".stale")).to_be_visible()
    expect(tab.locator(".tile-empty")).to_have_count(0)
    expect(tab.locator(".tile-link").first).to_have_attribute("aria-label", before)
    held[0].continue_()
    expect(tab.locator(".stale")).to_have_count(0)
    expect(tab.locator(".tile-match").first).to_be_attached()


def test_a_slow_service_is_asked_for_images_at_once(visit: Visit) -> None:
    """The search does not wait for the collections."""
    tab = visit()
    held: list[Any] = []
    tab.route("**/v1/collections", lambda route: held.append(route))
    tab.reload()
    expect(tab.locator(".tile img.loaded")).to_have_count(13)
    (route,) = held
    route.continue_()
    expect(tab.get_by_role("button", name="Add images")).to_be_visible()


def test_the_page_returns_with_its_service(visit: Visit, watch: Watch) -> None:
    watch.expected.add(0)
    tab = visit()
    tab.route("**/v1/**", lambda route: route.abort())
    tab.reload()
    expect(tab.locator("#message h2")).to_have_text("The service does not answer")
    tab.unroute("**/v1/**")
    expect(tab.locator("#summary")).to_have_text("13 images")
    expect(tab.locator("#message")).to_be_hidden()


def test_an_opened_image_names_a_service_that_ended(visit: Visit, watch: Watch) -> None:
    watch.expected.add(0)
    tab = visit()
    tab.locator(".tile-link").first.click()
    expect(tab.locator(".item-image")).to_be_visible()
    expect(tab.get_by_role("button", name="Next image")).to_be_enabled()
    tab.route(re.compile("/v1/"), lambda route: route.abort())
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".item-missing-note")).to_have_text("The service does not answer")
    # The message is in front of the opened image, and stays when that is closed.
    tab.keyboard.press("l")
    fault = tab.locator(".toast-error")
    expect(fault).to_contain_text("The service does not answer")
    fault.get_by_role("button").click()
    expect(fault).to_have_count(0)
    tab.keyboard.press("l")
    expect(fault).to_have_count(1)
    tab.keyboard.press("Escape")
    expect(tab.locator("dialog[open]")).to_have_count(0)
    expect(fault).to_be_visible()
    # It goes when the service is back.
    tab.unroute(re.compile("/v1/"))
    tab.locator(".tile-link").first.click()
    expect(tab.locator(".item-image")).to_be_visible()
    tab.keyboard.press("l")
    expect(fault).to_have_count(0)


def test_images_that_a_silent_service_left_out_come_when_it_answers(
    visit: Visit, watch: Watch
) -> None:
    watch.expected.add(0)
    tab = visit()
    tab.route(re.compile(r"/thumbnail\?"), lambda route: route.abort())
    tab.reload()
    expect(tab.locator(".tile-broken").first).to_be_visible()
    tab.locator(".tile-link").first.click()
    expect(tab.locator(".item-missing-note")).to_have_text("The service does not answer")
    tab.unroute(re.compile(r"/thumbnail\?"))
    expect(tab.locator(".item-missing")).to_have_count(0)
    expect(tab.locator(".item-image")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.locator(".tile img.loaded")).to_have_count(13)
    expect(tab.locator(".tile-broken")).to_have_count(0)
