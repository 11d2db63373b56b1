"""Daily use: search while typing, suggestions, days, selection, the viewer, and German."""

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from page_service import MANY, transfer

pytestmark = pytest.mark.page

Visit = Callable[..., Any]


def loaded(tab: Any) -> Any:
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    return tab


def test_results_follow_the_letters_as_one_entry_of_the_history(visit: Visit) -> None:
    tab = loaded(visit())
    tab.locator("#search-text").press_sequentially("a red circle", delay=90)
    expect(tab.locator("#result-tools select")).to_be_attached()
    tab.wait_for_url("**/?q=a+red+circle")
    tab.go_back()
    expect(tab.locator("#summary")).to_have_text("13 images")
    assert tab.input_value("#search-text") == ""


def test_the_last_answer_wins(visit: Visit) -> None:
    tab = loaded(visit())
    held: list[Any] = []

    def hold(route: Any) -> None:
        if json.loads(route.request.post_data).get("text") == "blue":
            held.append(route)
        else:
            route.continue_()

    tab.route("**/v1/search", hold)
    with tab.expect_request("**/v1/search"):
        tab.fill("#search-text", "blue")
    tab.fill("#search-text", "a red triangle")
    expect(tab.locator(".tile-link").first).to_have_attribute("aria-label", "a red triangle")
    assert len(held) == 1
    # The page has given up the request that was overtaken.
    tab.wait_for_url("**/?q=a+red+triangle")
    expect(tab.locator(".stale")).to_have_count(0)
    expect(tab.locator(".tile-link").first).to_have_attribute("aria-label", "a red triangle")


def test_a_tag_and_a_caption_are_suggested(visit: Visit) -> None:
    tab = loaded(visit())
    options = tab.locator(".suggestions [role=option]")
    tab.fill("#search-text", "tri")
    expect(options.first).to_have_text("triangletag")
    tab.keyboard.press("ArrowDown")
    active = tab.locator("#search-text").get_attribute("aria-activedescendant")
    expect(tab.locator(f"#{active}")).to_have_attribute("aria-selected", "true")
    tab.keyboard.press("Enter")
    expect(tab.locator("#summary")).to_have_text("4 images")
    tab.wait_for_url("**/?tag=triangle")
    expect(tab.locator(".suggestions")).to_be_hidden()
    tab.fill("#search-text", "a green tri")
    options.filter(has_text="a green triangle").click()
    tab.wait_for_url("**/?q=a+green+triangle&tag=triangle")


def test_suggestions_cover_no_result_and_examples_are_given_captions(visit: Visit) -> None:
    tab = loaded(visit())
    options = tab.locator(".suggestions [role=option]")
    tab.locator("#search-text").click()
    expect(options.first).to_have_text("a blue triangle")
    tab.fill("#search-text", "a blue")
    expect(tab.locator("#result-tools select")).to_be_attached()
    expect(options.first).to_be_visible()
    below = tab.locator(".suggestions").bounding_box()
    for number in range(options.count()):
        box = options.nth(number).bounding_box()
        # Each is shown as a whole, or not at all.
        assert box["x"] + box["width"] <= below["x"] + below["width"]
        assert not below["y"] + 1 < box["y"] < below["y"] + below["height"] - 1
    assert below["y"] + below["height"] <= tab.locator(".tile").first.bounding_box()["y"]

    def generate(route: Any) -> None:
        response = route.fetch()
        hits = [hit | {"caption_source": "model"} for hit in response.json()["hits"]]
        route.fulfill(response=response, json=response.json() | {"hits": hits})

    tab.route("**/v1/search", generate)
    tab.evaluate("localStorage.clear()")
    tab.goto(tab.url.partition("?")[0])
    loaded(tab).locator("#search-text").click()
    tab.wait_for_load_state("networkidle")
    expect(options).to_have_count(0)


def test_a_typing_error_has_a_correction(visit: Visit) -> None:
    tab = loaded(visit("/?q=a+red+cricle"))
    correction = tab.get_by_role("button", name="Did you mean")
    expect(correction).to_contain_text("a red circle")
    correction.click()
    tab.wait_for_url("**/?q=a+red+circle")
    expect(correction).to_have_count(0)


def test_a_date_inside_a_text_can_be_taken_as_a_filter(visit: Visit) -> None:
    tab = loaded(visit("/?q=circle+in+summer+2011"))
    tab.get_by_role("button", name="Only summer 2011").click()
    tab.wait_for_url("**/?q=circle&from=2011-06-01&to=2011-08-31")
    assert tab.input_value("#search-text") == "circle"
    expect(tab.locator(".tile-link")).to_have_count(1)
    expect(tab.get_by_role("button", name="Only summer 2011")).to_have_count(0)
    # The filter is a chip, which removes it.
    tab.get_by_role("button", name="Remove: Jun 1, 2011 \N{EN DASH} Aug 31, 2011").click()
    tab.wait_for_url("**/?q=circle")


def test_details_and_filters_have_the_words_of_people(visit: Visit) -> None:
    metadata = {"people": ["Anna", "Ben"], "exposure_s": 0.004, "f_number": 4.0, "iso": 200}

    def carry(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        for hit in body["hits"]:
            hit["metadata"] = metadata | {"utc_offset": 120, "focal_length": 35.0}
        route.fulfill(response=response, json=body)

    def count(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        values = [{"value": 120, "count": 6}]
        for field in ("metadata.utc_offset", "metadata.people"):
            body["facets"].append({"field": field, "values": values, "others": 0, "missing": 0})
        route.fulfill(response=response, json=body)

    tab = visit("/", locale="de-DE", viewport={"width": 1_440, "height": 900})
    tab.route("**/v1/search", carry)
    tab.route("**/v1/facets", count)
    tab.reload()
    expect(tab.locator("#filters")).to_contain_text("Personen")
    expect(tab.locator("#filters")).not_to_contain_text("offset")
    loaded(tab).locator(".tile-link").first.click()
    details = tab.locator(".details")
    expect(tab.locator(".item-panel")).to_contain_text("PersonenAnnaBen")
    expect(details).to_contain_text("1/250 s · f/4 · 35 mm · ISO 200")
    expect(details).not_to_contain_text("offset")


def test_recent_searches_are_suggested(visit: Visit) -> None:
    tab = loaded(visit())
    options = tab.locator(".suggestions [role=option]")
    tab.fill("#search-text", "round things")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/?q=round+things")
    tab.reload()
    tab.fill("#search-text", "")
    expect(options.first).to_have_text("round things")
    options.first.click()
    tab.wait_for_url("**/?q=round+things")


def test_an_empty_collection_takes_a_drop_anywhere(visit: Visit) -> None:
    tab = visit()
    nothing = {"collection": "pictures", "hits": [], "limit": 100, "offset": 0, "total": 0}
    tab.route("**/v1/search", lambda route: route.fulfill(json=nothing | {"took_ms": 1}))
    tab.reload()
    expect(tab.locator(".empty-drop h2")).to_have_text("No images yet")
    tab.route("**/v1/items", lambda route: route.fulfill(status=201, json={"id": "new"}))
    with tab.expect_request("**/v1/items") as sent:
        transfer(tab, [("first.png", "image/png", b"any")])
    assert json.loads(sent.value.post_data)["name"] == "first.png"
    expect(tab.locator("#uploads h2")).to_have_text("1 image added")


DAYS = [
    {"day": "2001-09-09", "count": 5_000},
    *({"day": f"2001-09-0{day}", "count": 2} for day in (8, 6)),
    {"day": "", "count": MANY - 5_004},
]


def test_a_list_has_headings_by_day_with_places(visit: Visit) -> None:
    def fill(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        for number, hit in enumerate(body["hits"]):
            hit["metadata"] = {"city": "Rome" if number % 3 else "Florence"}
        route.fulfill(response=response, json=body | {"sections": body["sections"] and DAYS})

    tab = visit("/?c=many")
    tab.route("**/v1/search", fill)
    tab.reload()
    heading = loaded(tab).locator(".wall-heading").first
    # Screen readers read it before the images of its day.
    title = tab.get_by_role("heading", name="Sunday, September 9, 2001", exact=True)
    expect(title).to_be_visible()
    order = tab.locator(".wall-page > li").first
    expect(order).to_have_class("wall-heading")
    expect(heading).to_have_text("Sunday, September 9, 2001Rome, Florence")
    first = tab.locator('.tile[data-index="0"]').bounding_box()
    box = heading.bounding_box()
    assert box["y"] + box["height"] <= first["y"] + 1
    titles = tab.evaluate(
        """async (days) => (await import("/scripts/sections.js")).sectionsOf(days)
          .map(({start, title}) => `${start} ${title}`)""",
        DAYS,
    )
    # Days with few images share a heading.
    assert titles[1:] == ["5000 September 6 \N{EN DASH} 8, 2001", "5004 Without a date"]
    tab.locator(".tile-link").first.focus()
    tab.keyboard.press("End")
    expect(tab.get_by_label(f"row {MANY - 1}", exact=True)).to_be_focused()


def test_tiles_of_a_section_follow_its_heading_and_none_overlap(visit: Visit) -> None:
    tab = visit()
    wrong = tab.evaluate(
        """async () => {
          const {ResultPage} = await import("/scripts/result_page.js");
          const {sectionsOf} = await import("/scripts/sections.js");
          const wrong = [];
          const days = [230, 9, 41, 300, 120].map(
            (count, n) => ({day: `20${20 - n}-05-01`, count}));
          const sections = sectionsOf(days);
          const boxes = [];
          const headings = new Map();
          let top = 0;
          for (let start = 0; start < 700; start += 100) {
            const page = new ResultPage(start);
            if (start % 200 === 0)
              page.items = Array.from({length: 100}, (_, n) => ({width: 3 + n % 5, height: 4}));
            const own = sections.filter(({start: at}) => at >= start && at < start + 100);
            const ends = start === 600 || sections.some(({start: at}) => at === start + 100);
            page.layOut(100, own, {width: 900, gap: 6, height: 150}, ends);
            boxes.push(...page.boxes.map(box => ({...box, y: box.y + top})));
            for (const section of page.sections) headings.set(section.start, section.y + top);
            top += page.height;
          }
          if (headings.size !== 5) wrong.push("headings");
          for (const [start, y] of headings) {
            if (start && boxes[start - 1].y + boxes[start - 1].height > y)
              wrong.push(["above", start]);
            if (boxes[start].x !== 0) wrong.push(["row", start]);
          }
          for (let n = 1; n < 700; n += 1) {
            const [a, b] = [boxes[n - 1], boxes[n]];
            if (b.y < a.y - 0.5 || (Math.abs(b.y - a.y) < 0.5 && b.x < a.x + a.width))
              wrong.push(["order", n]);
          }
          return wrong;
        }"""
    )
    assert wrong == []


def test_all_of_many_results_are_selected(visit: Visit) -> None:
    tab = loaded(visit("/?c=many"))
    tab.locator(".tile-check input").first.click(force=True)
    tab.get_by_role("button", name="Select all 10,000 images").click()
    expect(tab.locator("#selection")).to_contain_text("10,000 images selected")


def scale(tab: Any) -> float:
    found: float = tab.evaluate(
        """() => new DOMMatrix(getComputedStyle(
          document.querySelector(".item-stage .item-frame")).transform).a"""
    )
    return found


def test_an_image_is_enlarged_and_moved(visit: Visit) -> None:
    tab = loaded(visit())
    tab.locator(".tile-link").first.click()
    frame = tab.locator(".item-stage .item-frame")
    stage = tab.locator(".item-stage").bounding_box()
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    tab.keyboard.press("+")
    tab.keyboard.press("+")
    assert scale(tab) == pytest.approx(1.96)
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, -400)
    tab.wait_for_function("document.querySelector('.zoomed .item-frame')")
    assert scale(tab) > 2.5
    before = frame.bounding_box()["x"]
    tab.mouse.down()
    tab.mouse.move(x + 60, y, steps=3)
    tab.mouse.up()
    assert frame.bounding_box()["x"] == pytest.approx(before + 60, abs=2)
    tab.mouse.dblclick(x, y)
    assert scale(tab) == 1
    tab.mouse.dblclick(x, y)
    tab.keyboard.press("0")
    assert scale(tab) == 1


def test_the_page_is_in_the_language_of_the_browser(visit: Visit) -> None:
    tab = loaded(visit("/", locale="de-AT"))
    expect(tab.locator("#summary")).to_have_text("13 Bilder")
    assert tab.locator("#search-text").get_attribute("placeholder") == "Ein Bild beschreiben"
    assert tab.locator("html").get_attribute("lang") == "de"
    tab.get_by_role("button", name="Mehr", exact=True).click()
    tab.get_by_role("button", name="English").click()
    expect(tab.locator("#summary")).to_have_text("13 images")
