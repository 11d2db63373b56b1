"""The wall: scrolling, keys, selection, phone width, color theme, and state."""

import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from page_service import MANY, PHONE, Watch

pytestmark = pytest.mark.page

Visit = Callable[..., Any]
MAX_TILES = 300
MAX_NODES = 4_000


VISIBLE = """() => {
  const shown = [...document.querySelectorAll(".tile")].filter(tile => {
    const box = tile.getBoundingClientRect();
    return box.top < innerHeight && box.bottom > 0;
  });
  return shown.length && shown.every(tile => tile.querySelector("img.loaded"));
}"""
"""Whether all images in the viewport are loaded."""


def tiles(tab: Any) -> int:
    return tab.locator(".tile").count()


def test_scrolling_through_many_items_keeps_few_nodes(visit: Visit) -> None:
    tab = visit("/?c=many")
    expect(tab.locator("#summary")).to_have_text(f"{MANY:,} images")
    most = 0
    for part in (0.1, 0.5, 0.93, 0.3, 1.0):
        tab.evaluate("part => scrollTo(0, part * document.body.scrollHeight)", part)
        tab.wait_for_function(
            """() => [...document.querySelectorAll(".tile")].some(tile => {
              const box = tile.getBoundingClientRect();
              return box.top < innerHeight && box.bottom > 0 && tile.querySelector("img.loaded");
            })"""
        )
        most = max(most, tiles(tab))
    assert most <= MAX_TILES
    expect(tab.get_by_label(f"row {MANY - 1}", exact=True)).to_be_visible()


def test_images_that_a_further_letter_replaces_are_no_longer_loaded(visit: Visit) -> None:
    tab = visit("/?c=many")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    held: list[str] = []
    ended: list[str] = []
    holding = [True]
    tab.on("requestfailed", lambda request: ended.append(request.url))

    def hold(route: Any) -> None:
        if holding:
            held.append(route.request.url)
        else:
            route.continue_()

    tab.route(re.compile(r"/thumbnail\?"), hold)
    tab.locator("#search-text").fill("row 7")
    expect(tab.locator("#result-tools select")).to_be_attached()
    while len(held) < 4:
        tab.wait_for_timeout(20)
    holding.clear()
    tab.locator("#search-text").fill("row 1999")
    tab.wait_for_function(VISIBLE)
    assert set(held) & set(ended)


def test_the_last_of_many_items_is_reached_by_a_key_and_by_an_address(visit: Visit) -> None:
    tab = visit("/?c=many")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    tab.locator(".tile-link").first.focus()
    tab.keyboard.press("End")
    last = tab.get_by_label(f"row {MANY - 1}", exact=True)
    expect(last).to_be_focused()
    assert tiles(tab) <= MAX_TILES
    assert tab.locator("*").count() <= MAX_NODES
    tab.keyboard.press("Enter")
    title = tab.locator("dialog.item h2")
    expect(title).to_have_text(f"row {MANY - 1}")
    other = visit(tab.evaluate("location.pathname + location.search"))
    expect(other.locator("dialog.item h2")).to_have_text(f"row {MANY - 1}")


def test_a_fast_scroll_requests_few_blocks(visit: Visit) -> None:
    tab = visit("/?c=many")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    # A slow machine has longer frames: the distance follows the time, 300 viewports a second.
    passed = tab.evaluate(
        """async () => {
          const from = scrollY;
          let last = await new Promise(requestAnimationFrame);
          const end = last + 2000;
          while (last < end) {
            const now = await new Promise(requestAnimationFrame);
            scrollBy(0, 0.3 * innerHeight * Math.min(now - last, 100));
            last = now;
          }
          return (scrollY - from) / document.body.scrollHeight;
        }"""
    )
    blocks = passed * MANY / 100
    assert blocks > 30
    tab.wait_for_function(VISIBLE)
    searches = [url for url in requests if url.endswith("/v1/search")]
    assert 0 < len(searches) < blocks / 2


def test_keys_move_open_select_and_close(visit: Visit) -> None:
    tab = visit()
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    focused = "document.activeElement.closest('.tile')?.dataset.index"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(focused) == "1"
    tab.keyboard.press("ArrowDown")
    assert int(tab.evaluate(focused)) > 3
    tab.keyboard.press("ArrowUp")
    assert int(tab.evaluate(focused)) <= 3
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(focused) == "1"
    tab.keyboard.press("x")
    expect(tab.locator("#selection")).to_contain_text("1 image selected")
    tab.keyboard.press("Enter")
    title = tab.locator("dialog.item h2")
    expect(title).to_have_text("a green triangle")
    tab.keyboard.press("ArrowRight")
    expect(title).to_have_text("a orange triangle")
    tab.keyboard.press("Escape")
    expect(tab.locator("dialog.item")).to_be_hidden()
    # The focus follows in the event of closing, after the dialog is hidden.
    expect(tab.locator('.tile[data-index="2"]:focus-within')).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.locator("#selection")).to_be_hidden()
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search-text"
    tab.keyboard.press("Escape")
    expect(tab.locator('.tile[data-index="2"]:focus-within')).to_be_visible()


def top(tab: Any) -> int:
    """The index of the first image below the header."""
    found: int = tab.evaluate(
        """() => {
          const edge = document.querySelector(".header").getBoundingClientRect().bottom;
          const shown = [...document.querySelectorAll(".tile")].filter(
            tile => tile.getBoundingClientRect().bottom > edge + 1);
          return Math.min(...shown.map(tile => Number(tile.dataset.index)));
        }"""
    )
    return found


def test_a_reload_and_the_way_back_keep_the_place(visit: Visit, watch: Watch) -> None:
    # The small model of the tests judges no image.
    watch.expected.add(400)
    tab = visit("/?c=many")
    expect(tab.locator(".tile img.loaded").first).to_be_visible()
    tab.evaluate("scrollTo(0, 0.4 * document.body.scrollHeight)")
    tab.wait_for_function(VISIBLE)
    place = top(tab)
    assert place > 200
    tab.wait_for_function("history.state?.at > 200")
    tab.reload()
    tab.wait_for_function(VISIBLE)
    assert abs(top(tab) - place) <= 30
    # Keys go on from there.
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".tile-link:focus")).to_be_attached()
    assert abs(top(tab) - place) <= 30
    tab.fill("#search-text", "row")
    tab.keyboard.press("Enter")
    expect(tab.locator("#summary")).not_to_contain_text("images")
    tab.go_back()
    expect(tab.locator("#summary")).to_contain_text("images")
    tab.wait_for_function(VISIBLE)
    assert abs(top(tab) - place) <= 30


def test_a_linked_image_has_neighbours(visit: Visit) -> None:
    tab = visit("/?q=circle")
    links = tab.locator(".tile-link")
    expect(links).to_have_count(13)
    # The third image of the result, as its link is copied from the wall.
    address = tab.locator('.tile[data-index="2"] .tile-link').get_attribute("href")
    shown = [tab.locator(f'.tile[data-index="{n}"] .tile-link') for n in range(4)]
    names = [link.get_attribute("aria-label") for link in shown]
    other = visit(address)
    image = other.locator("dialog.item .item-image")
    expect(image).to_have_attribute("alt", names[2])
    other.get_by_role("button", name="Next image").click()
    expect(image).to_have_attribute("alt", names[3])
    other.keyboard.press("ArrowLeft")
    other.keyboard.press("ArrowLeft")
    expect(image).to_have_attribute("alt", names[1])


def test_shift_selects_a_range_and_caps_lock_changes_no_key(visit: Visit) -> None:
    tab = visit()
    boxes = tab.locator(".tile-check input")
    boxes.nth(1).click(force=True)
    boxes.nth(4).click(force=True, modifiers=["Shift"])
    expect(tab.locator("#selection")).to_contain_text("4 images selected")
    tab.locator(".tile-link").nth(6).focus()
    tab.keyboard.press("Shift+X")
    expect(tab.locator("#selection")).to_contain_text("6 images selected")
    press = """key => document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}))"""
    tab.evaluate(press, "X")
    expect(tab.locator("#selection")).to_contain_text("5 images selected")
    tab.evaluate(press, "F")
    expect(tab.locator("#filters")).to_be_hidden()


def test_a_phone_never_scrolls_sideways(visit: Visit) -> None:
    for path in ("/", "/?q=circle&more=text%3Ared+and+round", "/?view=duplicates"):
        tab = visit(path, **PHONE)
        tab.wait_for_load_state("networkidle")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab = visit("/", **PHONE)
    tab.locator("#filters-toggle").click()
    expect(tab.locator("#filters")).to_be_visible()
    assert tab.locator("#filters").bounding_box()["width"] == 390
    tab.get_by_role("button", name="Close the filters").click()
    tab.locator(".tile-link").first.click()
    expect(tab.locator("dialog.item")).to_be_visible()
    assert tab.evaluate("document.querySelector('dialog.item').scrollWidth") == 390


def test_the_color_theme_follows_the_system_and_can_be_chosen(visit: Visit) -> None:
    tab = visit("/", color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(paper)
    tab.get_by_role("button", name="More", exact=True).click()
    tab.get_by_role("button", name=re.compile("Color theme")).click()
    light = tab.evaluate(paper)
    assert light != dark
    tab.reload()
    assert tab.evaluate(paper) == light
    tab.get_by_role("button", name="More", exact=True).click()
    tab.get_by_role("button", name="Color theme: light").click()
    assert tab.evaluate(paper) == dark


def test_a_state_and_its_address_are_a_round_trip(visit: Visit) -> None:
    tab = visit()
    wrong = tab.evaluate(
        """async () => {
          const {emptyState, fromQuery, term, toQuery} = await import("/scripts/state.js");
          const texts = ["", "a b", "ü:1:,&=?#%", "“x”", "-minus", "日本"];
          const wrong = [];
          for (const [n, text] of texts.entries()) {
            const state = {
              ...emptyState(), text, tags: texts.slice(1, n + 1),
              from: n ? "2020-01-31" : "", item: text, hidden: n > 3,
              view: n ? "wall" : "duplicates",
              values: n ? {"metadata.a b": [text, 3, true]} : {},
              terms: n ? [
                term("text", text, -1),
                term("id", "id:" + text),
                term("image", "k"),
              ] : [],
            };
            const read = fromQuery(toQuery(state));
            if (JSON.stringify(read) !== JSON.stringify(state)) wrong.push(text);
          }
          const junk = fromQuery("?more=&more=x&less=id:&from=1&in.=2&in.a={&view=no");
          if (JSON.stringify(junk) !== JSON.stringify(emptyState())) wrong.push(junk);
          return wrong;
        }"""
    )
    assert wrong == []
