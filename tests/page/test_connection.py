"""The page and its service: keys, limits of rate, a slow service, and one that ends."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from page_service import KEY, Watch

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


def enter(tab: Any, key: str) -> None:
    tab.fill("#dialog-input", key)
    tab.get_by_role("button", name="Continue").click()


def test_a_wrong_key_is_refused_in_words(visit: Visit, watch: Watch, keyed_address: str) -> None:
    watch.expected.add(401)
    tab = visit(at=keyed_address)
    expect(tab.locator(".dialog")).to_have_count(1)
    expect(tab.locator(".field-error")).to_have_count(0)
    enter(tab, "wrong")
    expect(tab.locator(".field-error")).to_have_text("The service does not accept this key.")
    expect(tab.locator(".dialog")).to_have_count(1)
    enter(tab, KEY)
    expect(tab.locator("#summary")).to_have_text("13 images")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()


def test_a_cancelled_key_can_be_entered_later(
    visit: Visit, watch: Watch, keyed_address: str
) -> None:
    watch.expected.add(401)
    tab = visit(at=keyed_address)
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.locator("#message h2")).to_have_text("This service needs a key")
    tab.get_by_role("button", name="Enter a key").click()
    enter(tab, KEY)
    expect(tab.locator("#summary")).to_have_text("13 images")


@pytest.fixture
def keyed(visit: Visit, watch: Watch, keyed_address: str) -> Any:
    """A tab of the page whose service needs a key, which was entered."""
    watch.expected.add(401)
    tab = visit(at=keyed_address)
    enter(tab, KEY)
    expect(tab.locator(".tile img.loaded")).to_have_count(13)
    watch.expected.clear()
    return tab


def test_images_of_a_service_with_keys_are_shown_opened_and_saved(
    keyed: Any, tmp_path: Path
) -> None:
    tab = keyed
    sources = tab.evaluate("[...document.querySelectorAll('.tile img')].map(img => img.src)")
    assert all("/thumbnail?" in source for source in sources)
    assert tab.evaluate("document.cookie") == ""
    (cookie,) = tab.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/v1")
    tab.get_by_label("a red circle", exact=True).click()
    tab.keyboard.press("i")
    with tab.expect_popup() as opened:
        tab.get_by_role("link", name="Open the original").click()
    expect(opened.value.locator("img")).to_be_visible()
    assert opened.value.evaluate("[document.images[0].naturalWidth, opener]") == [300, None]
    opened.value.close()
    with tab.expect_download() as download:
        item = tab.locator("dialog.item")
        item.get_by_role("button", name="More", exact=True).click()
        item.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "red-circle.png"
    tab.keyboard.press("Escape")
    for number in range(2):
        tab.locator(".tile-check input").nth(number).click(force=True)
    with tab.expect_download() as download:
        tab.locator("#selection").get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "images.zip")
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2


def test_images_come_back_after_their_session_has_ended(keyed: Any, watch: Watch) -> None:
    watch.expected.add(401)
    tab = keyed
    tab.context.clear_cookies()
    tab.locator(".tile-link").first.click()
    expect(tab.locator(".item-image")).to_have_js_property("complete", True)
    expect(tab.locator(".item-image")).not_to_have_js_property("naturalWidth", 0)
    expect(tab.locator(".item-missing")).to_have_count(0)
    assert len(tab.context.cookies()) == 1


def test_an_archive_that_cannot_be_read_is_reported(visit: Visit, watch: Watch) -> None:
    watch.expected.add(429)
    tab = visit()
    for number in range(2):
        tab.locator(".tile-check input").nth(number).click(force=True)
    tab.route("**/v1/archive", lambda route: refuse(route, 429))
    tab.locator("#selection").get_by_role("button", name="Download").click()
    expect(tab.locator(".toast-error")).to_contain_text("The archive cannot be read")
    expect(tab.locator(".tile img.loaded")).to_have_count(13)


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
    expect(tab.locator(".wall-page:empty")).to_have_count(0)
    expect(tab.locator(".tile-link").first).to_have_attribute("aria-label", before)
    held[0].continue_()
    expect(tab.locator(".stale")).to_have_count(0)
    expect(tab.locator("#result-tools select")).to_be_attached()


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
