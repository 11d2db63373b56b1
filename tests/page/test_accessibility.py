"""Accessibility by axe-core, in each state of the page and in both color themes."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")


from page_service import AXE, PHONE, Watch, transfer

pytestmark = pytest.mark.page

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: make test-page")
    return AXE.read_text(encoding="utf-8")


def violations(tab: Any, axe: str) -> list[str]:
    # Animations would be measured at half of their opacity.
    tab.emulate_media(reduced_motion="reduce")
    tab.evaluate(axe)
    found = tab.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def open_item(tab: Any) -> None:
    tab.locator(".tile-link").first.click()
    tab.wait_for_selector("dialog.item[open]")


def select(tab: Any) -> None:
    tab.locator(".tile-check input").first.click(force=True)
    tab.wait_for_selector("#selection:not([hidden])")


def show_filters(tab: Any) -> None:
    if tab.locator("#filters").is_hidden():
        tab.locator("#filters-toggle").click()
    tab.wait_for_selector(".facet-value")


def show_suggestions(tab: Any) -> None:
    tab.fill("#search-text", "tri")
    tab.wait_for_selector(".suggestions [role=option]")
    # An older result has half of its contrast.
    tab.wait_for_selector(".wall:not(.stale)")


def show_keys(tab: Any) -> None:
    tab.keyboard.press("?")
    tab.wait_for_selector(".keys")


def open_item_menu(tab: Any) -> None:
    open_item(tab)
    tab.locator(".item-bar").get_by_role("button", name="More", exact=True).press("Enter")
    tab.wait_for_selector("#item-menu:popover-open")


def show_details(tab: Any) -> None:
    open_item(tab)
    tab.keyboard.press("i")


def open_why(tab: Any) -> None:
    show_details(tab)
    tab.get_by_text("Why?", exact=True).click()
    tab.wait_for_selector(".why details")


def judge_hits(tab: Any) -> None:
    """Give the hits two sections, fold the unlikely ones, and make one the frame of a video."""
    frame = {"video": "/v1/items/a/video#t=65", "name": "clip.mp4#t=65", "caption": ""}

    def change(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        for number, hit in enumerate(body["hits"]):
            reason = "tag: circle" if number > 1 else "caption"
            hit |= {"likely": number < 4, "reason": reason}
            hit |= frame | {"metadata": {"seconds": 65.0}} if number == 1 else {}
        sections = [{"reasons": [one], "count": 2} for one in ("caption", "tag: circle")]
        route.fulfill(response=response, json=body | {"sections": sections})

    tab.route("**/v1/search", change)
    tab.fill("#search-text", "a red circle")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#fold:not([hidden])")


def choose_word(tab: Any) -> None:
    open_item(tab)
    tab.locator(".why-word").first.click()


def show_confirmation(tab: Any) -> None:
    select(tab)
    tab.locator("#selection").get_by_role("button", name="Hide").click()


def show_failed_upload(tab: Any) -> None:
    tab.evaluate(
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer()}))"
    )
    transfer(tab, [("a.png", "image/png", b"a"), ("b.png", "image/png", b"b")])
    tab.wait_for_selector(".upload-failed")


def show_searches(tab: Any) -> None:
    body = {"text": "circle", "link": "?q=circle"}
    tab.request.put(f"{tab.evaluate('location.origin')}/v1/searches/circles", data=body)
    tab.get_by_role("button", name="Saved searches").click()
    tab.wait_for_selector(".saved-search")


def open_menu(tab: Any) -> None:
    tab.get_by_role("button", name="More", exact=True).click()
    tab.wait_for_selector("#menu:popover-open")


STATES: dict[str, tuple[str, Callable[[Any], None] | None]] = {
    "all images": ("/", None),
    "query with chips": (
        "/?q=circle+in+May+2012&less=text%3Ablue&tag=circle",
        None,
    ),
    "menu": ("/", open_menu),
    "no hits": ("/?tag=no-such-tag", None),
    "item": ("/", open_item),
    "menu of an item": ("/", open_item_menu),
    "why": ("/?q=circle", open_why),
    "reasons": ("/", judge_hits),
    "chosen word": ("/?q=red+circle", choose_word),
    "details": ("/", show_details),
    "confirmation": ("/", show_confirmation),
    "failed upload": ("/", show_failed_upload),
    "suggestions": ("/", show_suggestions),
    "hidden images": ("/?hidden=1", None),
    "selection": ("/", select),
    "filters": ("/", show_filters),
    "keys": ("/", show_keys),
    "saved searches": ("/", show_searches),
    "near-duplicates": ("/?view=duplicates", None),
}


NEEDED = {"filters": {"/v1/facets"}, "near-duplicates": {"/v1/duplicates"}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_axe_finds_no_violation(
    visit: Visit, axe: str, watch: Watch, routes: set[str], state: str, scheme: str
) -> None:
    if missing := NEEDED.get(state, set()) - routes:
        pytest.skip(f"the service has no route {missing}")
    path, action = STATES[state]
    watch.expected.add(422)
    tab = visit(path, color_scheme=scheme)
    tab.wait_for_load_state("networkidle")
    if action:
        action(tab)
    assert violations(tab, axe) == []
    tab.set_viewport_size(PHONE["viewport"])
    tab.wait_for_timeout(300)
    assert violations(tab, axe) == []


def test_every_control_is_reached_by_tab_in_reading_order(visit: Visit) -> None:
    # With the filters open, whose many boxes follow the images.
    tab = visit("/?q=circle", viewport={"width": 1_440, "height": 900})
    tab.wait_for_selector(".tile-link[tabindex='0']")
    tab.wait_for_selector(".facet-value")
    reached = []
    for _ in range(24):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate(
                """() => {
                  const {activeElement: one} = document;
                  return one.className.includes?.("tile-link") ? "tile" : one.id || one.className;
                }"""
            )
        )
    order = [reached.index(name) for name in ("skip", "search-text", "filters-toggle", "tile")]
    assert order == sorted(order)
