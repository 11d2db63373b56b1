"""Search on the page: text, images, filters, deep links, and no match."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from page_service import PHONE, render, transfer

pytestmark = pytest.mark.page

Visit = Callable[..., Any]


def query_of(tab: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(tab.url).query)


def names(tab: Any) -> list[str]:
    """The labels of the tiles, in the order of the wall."""
    tab.wait_for_selector(".tile-link img.loaded")
    return [link.get_attribute("aria-label") for link in tab.locator(".tile-link").all()]


def test_the_page_lists_all_images_newest_first(visit: Visit) -> None:
    tab = visit()
    expect(tab.locator("#summary")).to_have_text("13 images")
    assert names(tab)[:2] == ["a blue triangle", "a green triangle"]


def test_a_text_orders_images_and_has_an_address(visit: Visit) -> None:
    tab = visit()
    expect(tab.locator(".tile").first).to_be_visible()
    listed = names(tab)
    tab.fill("#search-text", "a red circle")
    tab.keyboard.press("Enter")
    expect(tab.locator("#result-tools select")).to_be_attached()
    expect(tab.locator(".stale")).to_have_count(0)
    assert names(tab) != listed
    # Numbers are in the details of an image only.
    assert not any(re.search(r"\d", name) for name in names(tab))
    assert query_of(tab) == {"q": ["a red circle"]}
    tab.go_back()
    expect(tab.locator("#summary")).to_have_text("13 images")
    assert tab.input_value("#search-text") == ""


def test_a_link_opens_the_same_query_filters_and_item(visit: Visit) -> None:
    tab = visit("/?q=circle&less=text%3Ablue&tag=circle")
    order = names(tab)
    assert len(order) == 4
    tab.locator(".tile-link").first.click()
    tab.wait_for_selector("dialog.item[open]")
    again = visit(tab.url.removeprefix(tab.evaluate("location.origin")))
    expect(again.locator("dialog.item h2")).to_have_text(tab.locator("dialog.item h2").inner_text())
    again.keyboard.press("Escape")
    assert names(again) == order
    expect(again.locator(".chip-less")).to_contain_text("blue")


def test_a_minus_sign_waits_for_enter_and_adds_an_unwanted_text(visit: Visit) -> None:
    tab = visit("/?q=circle")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    searches: list[str] = []
    tab.on("request", lambda request: searches.append(request.url))
    tab.fill("#search-text", "-blue")
    tab.wait_for_timeout(1_000)
    assert not any(url.endswith("/v1/search") for url in searches)
    tab.keyboard.press("Enter")
    expect(tab.locator(".chip-less")).to_contain_text("blue")
    assert query_of(tab) == {"q": ["circle"], "less": ["text:blue"]}
    assert tab.input_value("#search-text") == "circle"


def test_a_query_of_unwanted_texts_only_asks_for_more(visit: Visit) -> None:
    tab = visit("/?less=text%3Ablue")
    expect(tab.locator("#message h2")).to_have_text("Add something to look for")


def test_similar_images_are_others_than_the_image_itself(visit: Visit) -> None:
    tab = visit("/?q=circle&tag=circle")
    tile = tab.locator(".tile", has=tab.get_by_label("a red circle", exact=True)).first
    tile.hover()
    tile.get_by_role("button", name=re.compile("^Similar")).click()
    expect(tab.locator(".chip-image")).to_be_visible()
    assert "q" not in query_of(tab)
    assert query_of(tab)["tag"] == ["circle"]
    expect(tab.get_by_label("a red circle", exact=True)).to_have_count(0)
    assert len(names(tab)) == 3


def test_an_image_of_the_reader_finds_its_copy(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "mine.png"
    render("circle", "red", (300, 200)).save(file)
    tab = visit()
    tab.set_input_files("#pick-image", file)
    expect(tab.locator(".chip-image")).to_be_visible()
    first = tab.locator(".tile-link").first
    expect(first).to_have_attribute("aria-label", re.compile("red circle"))
    tab.reload()
    expect(tab.locator(".chip-image")).to_be_visible()


def test_an_image_can_be_dropped_and_pasted(visit: Visit, tmp_path: Path) -> None:
    tab = visit()
    keys = []
    for kind, color in (("drop", "red"), ("paste", "blue")):
        file = tmp_path / f"{color}.png"
        render("circle", color, (40, 40)).save(file)
        with tab.expect_response("**/v1/search"):
            transfer(tab, [(file.name, "image/png", file.read_bytes())], kind)
        tab.wait_for_selector(".chip-image")
        keys.append(query_of(tab)["more"])
    assert keys[0] != keys[1]


def test_a_missing_image_of_another_tab_is_reported(visit: Visit) -> None:
    tab = visit("/?more=image%3Aunknown")
    expect(tab.locator("#message h2")).to_have_text("The image of this query is gone")


def in_sections(hits: list[dict[str, Any]]) -> dict[str, Any]:
    """Order likely hits by reason, and the others after them, as the service does."""
    likely = [hit for hit in hits if hit["likely"]]
    groups = {
        one["reason"]: [hit for hit in likely if hit["reason"] == one["reason"]] for one in likely
    }
    ordered = [hit for group in groups.values() for hit in group]
    return {
        "hits": ordered + [hit for hit in hits if not hit["likely"]],
        "sections": [{"reasons": [name], "count": len(group)} for name, group in groups.items()],
        "sections_complete": True,
    }


def judge(
    tab: Any, reasons: list[tuple[str, bool]], caption: str = "", complete: bool = True
) -> None:
    """Give the first hits a reason each, and whether they are likely; the others are not."""

    def change(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        for hit in body["hits"]:
            hit |= {"likely": False, "reason": "looks like"}
        for hit, (reason, likely) in zip(body["hits"], reasons, strict=False):
            hit |= {"likely": likely, "reason": reason}
            if reason == "caption" and caption:
                hit["caption"] = caption
        asked = route.request.post_data_json
        if asked.get("text") and asked.get("sections"):
            body |= in_sections(body["hits"]) | {"sections_complete": complete}
        route.fulfill(response=response, json=body)

    tab.route("**/v1/search", change)


def search(tab: Any, text: str) -> None:
    tab.fill("#search-text", text)
    tab.keyboard.press("Enter")


WIDE = {"viewport": {"width": 1_440, "height": 900}}
TAGGED, CAPTION, LOOKS = "tag: circle", "caption", "looks like"


@pytest.mark.parametrize("options", [WIDE, PHONE], ids=["wide", "phone"])
def test_unlikely_hits_are_folded_and_shown_by_a_key(visit: Visit, options: dict[str, Any]) -> None:
    tab = visit(**options)
    judge(tab, [(TAGGED, True), (TAGGED, True), (LOOKS, False), (CAPTION, True), (LOOKS, True)])
    search(tab, "a red circle")
    # Also one that ranks before likely hits is folded.
    fold = tab.get_by_role("region", name="Unlikely images")
    expect(fold).to_contain_text("The other images probably do not show “a red circle”.")
    expect(tab.locator("#summary")).to_have_text("4 images")
    expect(tab.locator(".tile")).to_have_count(4)
    fold.get_by_role("button", name="Show them").focus()
    tab.keyboard.press("Enter")
    heading = tab.locator(".wall-heading", has_text="Probably not")
    expect(heading).to_be_visible()
    expect(fold).to_be_hidden()
    expect(tab.locator('.tile[data-index="4"] .tile-link')).to_be_focused()
    place = heading.bounding_box()["y"]
    boxes = [tab.locator(f'.tile[data-index="{index}"]').bounding_box() for index in (3, 4)]
    assert boxes[0]["y"] + boxes[0]["height"] <= place + 1 < boxes[1]["y"] + 1
    assert query_of(tab)["all"] == ["1"]
    tab.reload()
    expect(heading).to_be_visible()
    search(tab, "a blue circle")
    expect(fold).to_be_visible()
    assert "all" not in query_of(tab)


def judge_many(tab: Any, ranks: set[int]) -> None:
    """Make the hits of some ranks likely, as the service would: it lists them first."""

    def change(route: Any) -> None:
        asked = route.request.post_data_json
        if not asked.get("text"):
            route.fallback()
            return
        response = route.fetch(post_data=asked | {"offset": 0, "limit": 500})
        body = response.json()
        for rank, hit in enumerate(body["hits"]):
            hit |= {"likely": rank in ranks, "reason": LOOKS, "caption": f"rank {rank}"}
        body |= in_sections(body["hits"])
        end = asked["offset"] + asked["limit"]
        page = {"hits": body["hits"][asked["offset"] : end], "offset": asked["offset"]}
        route.fulfill(response=response, json=body | page | {"limit": asked["limit"]})

    tab.route("**/v1/search", change)


@pytest.mark.parametrize(
    "ranks",
    [{0, 1, 2, 150, 310}, set(range(100)), {*range(105), 260}],
    ids=["after a page's unlikely end", "a whole page", "two pages"],
)
def test_likely_hits_of_later_pages_are_shown(visit: Visit, ranks: set[int]) -> None:
    tab = visit("/?c=many")
    judge_many(tab, ranks)
    search(tab, "a row")
    tab.keyboard.press("Escape")
    expect(tab.locator(".tile-link").first).to_have_attribute("aria-label", "rank 0")
    tab.locator(".tile-link").first.focus()
    fold = tab.get_by_role("region", name="Unlikely images")
    while not fold.is_visible():
        tab.keyboard.press("End")
        tab.wait_for_timeout(50)
    tab.keyboard.press("End")
    last = tab.locator(f'.tile[data-index="{len(ranks) - 1}"] .tile-link')
    expect(last).to_have_attribute("aria-label", f"rank {max(ranks)}")
    expect(tab.locator(".tile").last).to_have_attribute("aria-setsize", str(len(ranks)))


def test_nothing_is_folded_where_likely_hits_follow_the_sections(visit: Visit) -> None:
    tab = visit()
    judge(tab, [(TAGGED, True), (LOOKS, False), (LOOKS, True)], complete=False)
    search(tab, "a red circle")
    expect(tab.locator(".wall-heading")).to_have_text(
        ["Tagged “circle” (1+)", "Looks like “a red circle” (1+)", "More results"]
    )
    expect(tab.locator("#fold")).to_be_hidden()
    expect(tab.locator('.tile[data-index="5"]')).to_be_attached()


def test_the_filters_count_the_hits_of_a_text(visit: Visit) -> None:
    def count_part(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        if route.request.post_data_json.get("text"):
            body |= {"total": 2, "complete": False}
        route.fulfill(response=response, json=body)

    tab = visit("/?tag=circle", **WIDE)
    tab.route("**/v1/facets", count_part)
    filters = tab.locator("#filters")
    counts = re.compile(r'/v1/facets {.*"text":')
    with tab.expect_request(lambda one: counts.search(f"{one.url} {one.post_data}")) as asked:
        search(tab, "a red circle")
    sent = asked.value.post_data_json
    assert sent["text"] == "a red circle"
    assert sent["where"] == [{"field": "tags", "operator": "has all", "value": ["circle"]}]
    expect(filters.locator(".hint").first).to_have_text("2+ images")
    search(tab, "")
    expect(filters.locator(".hint").first).to_have_text(re.compile(r"^\d+ images$"))


def test_all_hits_are_shown_where_the_model_judges_no_image(visit: Visit) -> None:
    tab = visit("/?c=many")
    search(tab, "a red row")
    expect(tab.locator("#result-tools select")).to_be_attached()
    expect(tab.locator(".wall-heading")).to_have_count(0)
    expect(tab.locator("#message")).to_be_hidden()
    tab.locator(".tile-link").first.focus()
    tab.keyboard.press("End")
    expect(tab.locator('.tile[data-index="199"] .tile-link')).to_be_attached()


def test_hits_are_shown_where_none_is_likely(visit: Visit) -> None:
    tab = visit()
    judge(tab, [])
    search(tab, "a red circle")
    expect(tab.locator(".wall-heading", has_text="Probably not")).to_be_visible()
    expect(tab.locator("#fold")).to_be_hidden()
    expect(tab.locator('.tile[data-index="5"]')).to_be_attached()


@pytest.mark.parametrize("options", [WIDE, PHONE], ids=["wide", "phone"])
def test_likely_hits_are_in_sections_by_reason(visit: Visit, options: dict[str, Any]) -> None:
    tab = visit("/?q=a+red+circle", **options)
    ranked = names(tab)
    judge(tab, [(TAGGED, True), (CAPTION, True), (LOOKS, False), (TAGGED, True), (LOOKS, True)])
    tab.reload()
    titles = [
        "Tagged “circle” (2)",
        "Caption fits “a red circle” (1)",
        "Looks like “a red circle” (1)",
    ]
    for number, title in enumerate(titles):
        expect(tab.get_by_role("heading", name=title, exact=True)).to_have_count(1)
        expect(tab.locator(".wall-heading").nth(number)).to_have_text(title)
    shown = [tab.locator(f'.tile[data-index="{at}"] .tile-link') for at in range(4)]
    assert [one.get_attribute("aria-label") for one in shown] == [ranked[at] for at in (0, 3, 1, 4)]
    # Screen readers read a heading before its images.
    parts = tab.locator(".wall-page > li")
    expect(parts).to_have_class(["wall-heading", "tile", "tile", *["wall-heading", "tile"] * 2])
    expect(tab.locator("#summary")).to_have_text("4 images")
    if options is PHONE:
        return
    # A key shows a section, and goes on from there.
    buttons = tab.locator(".chip-section")
    expect(buttons).to_have_text(titles)
    buttons.nth(2).focus()
    tab.keyboard.press("Enter")
    expect(shown[3]).to_be_focused()
    expect(tab.locator(".wall-heading").nth(2)).to_be_in_viewport()
    tab.keyboard.press("ArrowUp")
    expect(shown[2]).to_be_focused()


def test_a_tile_names_its_tag_or_the_word_of_its_caption(visit: Visit) -> None:
    tab = visit()
    caption = "the long way home, behind the old mill, and two circles in the sand"
    judge(tab, [(TAGGED, True), (CAPTION, True), (LOOKS, True)], caption)
    search(tab, "the circle")
    whys = tab.locator(".tile-why")
    expect(whys).to_have_count(2)
    expect(whys.nth(0)).to_have_text("Tag: circle")
    expect(whys.nth(1)).to_have_text("… the old mill, and two circles in the sand")
    expect(whys.nth(1).locator("b")).to_have_text(["circles"])
    link = tab.locator('.tile[data-index="0"] .tile-link')
    expect(link).to_have_accessible_description("Tag: circle")
    link.click()
    expect(tab.locator(".item-panel")).to_contain_text("Tag: circle")


def test_hits_are_ordered_by_time(visit: Visit) -> None:
    tab = visit("/?q=a+circle")
    best = names(tab)
    order = tab.get_by_label("Order", exact=True)
    expect(order).to_have_value("")
    first = tab.locator('.tile[data-index="0"] .tile-link')
    order.select_option("newest")
    expect(first).to_have_attribute("aria-label", "a blue triangle")
    newest = names(tab)
    order.select_option("oldest")
    # It has no time of capture, but that of its file.
    expect(first).to_have_attribute("aria-label", "a copy of the red circle")
    assert names(tab) == newest[::-1]
    assert sorted(best) == sorted(newest)
    tab.fill("#search-text", "")
    tab.keyboard.press("Enter")
    tab.wait_for_url(lambda url: "sort" not in url)
    expect(tab.locator("#summary")).to_have_text("13 images")
