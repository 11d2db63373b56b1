"""Items on the page: filters, tags, favourites, uploads, hiding, download, duplicates."""

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from coca.core.installation import pip_install
from coca.search.records import content_id
from page_service import AXE, FILE_DATE, PHONE, Watch, render, transfer
from server_process import serving

pytestmark = pytest.mark.page

Visit = Callable[..., Any]


NEEDED = {"/v1/items", "/v1/facets"}


@pytest.fixture(autouse=True)
def _needed_routes(routes: set[str]) -> None:
    if missing := NEEDED - routes:
        pytest.skip(f"the service has no route {missing}")


def count(tab: Any, number: int) -> None:
    expect(tab.locator("#summary")).to_have_text(f"{number} images")


def add(tab: Any, *files: Path) -> None:
    """Upload files, and wait until the wall shows them."""
    tab.set_input_files("#pick-uploads", list(files))
    expect(tab.locator("#uploads h2")).to_have_text(re.compile(r"\d images? added"))


def select(tab: Any, tile: Any, action: str) -> None:
    """Select the image of a tile, and click a button of the selection."""
    tile.locator("input").click(force=True)
    tab.locator("#selection").get_by_role("button", name=action, exact=True).click()


def act(item: Any, name: str) -> None:
    """Click an action in the menu of an opened image."""
    item.get_by_role("button", name="More", exact=True).click()
    item.get_by_role("button", name=name).click()


FIND = """content => fetch("/v1/search", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({filter: `content == "${content}"`}),
}).then((answer) => answer.json()).then(({hits}) => hits[0].id)"""
"""Find the id of an image by its content."""


SIZES = {"star.png": (120, 90), "large.jpg": (2_400, 1_600), "panorama.jpg": (6_000, 1_000)}


@pytest.fixture
def uploaded(
    visit: Visit, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Any, Any]]:
    """The page with one image more, and its tile; the image is deleted after the test."""
    file = tmp_path / getattr(request, "param", "star.png")
    render("triangle", "purple", SIZES[file.name]).save(file)
    tab = visit()
    count(tab, 13)
    add(tab, file)
    count(tab, 14)
    id = tab.evaluate(FIND, content_id(file.read_bytes()))
    yield tab, tab.locator(f'.tile[data-id="{id}"]')
    tab.evaluate("id => fetch(`/v1/items/${id}`, {method: 'DELETE'})", id)


@pytest.mark.parametrize("uploaded", ["large.jpg"], indirect=True)
def test_an_opened_image_fills_the_screen_with_its_original(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    tile.locator(".tile-link").click()
    tab.wait_for_function("() => document.querySelector('.item-image')?.naturalWidth === 2400")
    box = tab.locator(".item-image").bounding_box()
    assert (box["width"], box["height"], box["y"]) == pytest.approx((1_200, 800, 0), abs=1)
    expect(tab.locator(".details")).to_be_hidden()
    tab.keyboard.press("i")
    expect(tab.locator(".details")).to_be_visible()
    tab.reload()
    expect(tab.locator(".details")).to_be_visible()


@pytest.mark.parametrize("uploaded", ["panorama.jpg"], indirect=True)
def test_the_tile_of_a_panorama_is_sharp(uploaded: tuple[Any, Any]) -> None:
    _, tile = uploaded
    expect(tile.locator("img.loaded")).to_be_visible()
    pixels = tile.locator("img").evaluate("one => one.naturalHeight")
    assert pixels >= tile.bounding_box()["height"]


def confirm(tab: Any) -> None:
    tab.locator(".dialog").get_by_role("button", name="Hide", exact=True).click()


def test_a_hidden_image_is_shown_again(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    tab.fill("#search-text", "a purple triangle")
    tab.keyboard.press("Enter")
    expect(tab.locator("#result-tools select")).to_be_attached()
    expect(tile).to_be_attached()
    select(tab, tile, "Hide")
    expect(tab.locator(".dialog-text")).to_contain_text("No file is changed")
    tab.locator(".dialog").get_by_role("button", name="Cancel").click()
    expect(tile).to_be_visible()
    tab.locator("#selection").get_by_role("button", name="Hide").click()
    confirm(tab)
    expect(tile).to_have_count(0)
    expect(tab.locator("#selection")).to_be_hidden()
    tab.locator(".toast").get_by_role("button", name="Undo").click()
    expect(tile).to_be_visible()
    select(tab, tile, "Hide")
    confirm(tab)
    expect(tile).to_have_count(0)
    tab.get_by_role("button", name="More", exact=True).click()
    tab.get_by_role("button", name="Hidden images").click()
    expect(tab.locator("#summary")).to_have_text("1 image · No search finds these images.")
    assert "hidden=1" in tab.url
    select(tab, tile, "Show again")
    expect(tab.locator("#message h2")).to_have_text("No image is hidden")
    tab.locator("#message").get_by_role("button", name="All images").click()
    count(tab, 14)


def test_an_opened_image_is_hidden_and_shown_again(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    tile.locator(".tile-link").click()
    item = tab.locator("dialog.item")
    act(item, "Hide")
    confirm(tab)
    expect(item).to_be_hidden()
    count(tab, 13)
    tab.get_by_role("button", name="More", exact=True).click()
    tab.get_by_role("button", name="Hidden images").click()
    tile.locator(".tile-link").click()
    act(item, "Show again")
    expect(tab.locator("#message h2")).to_have_text("No image is hidden")
    # A search leaves the view of hidden images.
    tab.fill("#search-text", "a purple triangle")
    tab.keyboard.press("Enter")
    expect(tab.locator("#result-tools select")).to_be_attached()
    expect(tile).to_be_attached()


def test_an_upload_comes_first_with_its_name_and_time(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    expect(tile).to_have_attribute("data-index", "0")
    tab.locator("#uploads").get_by_role("link", name="star.png").click()
    item = tab.locator("dialog.item")
    expect(item.locator(".details")).to_contain_text("star.png")
    year = datetime.now(UTC).year
    expect(item.locator(".details")).to_contain_text(re.compile(rf"Added.*{year}"))
    tab.keyboard.press("Escape")
    # A name of one image is not a filter.
    expect(tab.locator("#filters")).to_contain_text("circle")
    expect(tab.locator("#filters")).not_to_contain_text("star.png")


def test_the_date_of_a_file_is_not_called_the_time_of_capture(visit: Visit) -> None:
    tab = visit()
    details = tab.locator("dialog.item .details")
    tab.get_by_label("a green square", exact=True).click()
    expect(details).to_contain_text("Taken")
    expect(details).not_to_contain_text("File date")
    tab.keyboard.press("Escape")
    tab.get_by_label("a copy of the red circle", exact=True).click()
    expect(details).to_contain_text("File date")
    expect(details).not_to_contain_text("Taken")


def test_several_dropped_files_are_added_and_an_upload_is_not_lost_by_chance(visit: Visit) -> None:
    tab = visit()
    held: list[Any] = []
    tab.route("**/v1/items", lambda route: held.append(route))
    # Browsers know no type of a HEIC file.
    transfer(tab, [("notes.txt", "text/plain", b"any")])
    expect(tab.locator(".toast-error")).to_contain_text("None of these files is an image")
    tab.locator(".toast-error button").click()
    transfer(tab, [("a.png", "image/png", b"a"), ("b.heic", "", b"b")])
    expect(tab.locator(".upload-name")).to_have_text(["a.png", "b.heic"])
    expect(tab.locator("#uploads h2")).to_have_text("Adding 2 images")
    close = tab.locator("#uploads").get_by_role("button", name="Close")
    close.click()
    expect(tab.locator(".dialog-text")).to_contain_text("2 images are not added yet")
    tab.locator(".dialog").get_by_role("button", name="Cancel").click()
    asked: list[str] = []

    def stay(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    tab.on("dialog", stay)
    tab.close(run_before_unload=True)
    while not asked:
        tab.wait_for_timeout(50)
    assert asked == ["beforeunload"]
    for route, status in zip(held, (201, 200), strict=True):
        route.fulfill(status=status, json={"id": "new"})
    expect(tab.locator("#uploads h2")).to_have_text("1 image added, 1 there already")
    close.click()
    expect(tab.locator("#uploads")).to_be_hidden()


RECORD = """() => new Promise(done => {
  const canvas = document.createElement("canvas");
  const recorder = new MediaRecorder(canvas.captureStream(20));
  recorder.ondataavailable = async ({data}) => done([...new Uint8Array(await data.arrayBuffer())]);
  setInterval(() => canvas.getContext("2d").fillRect(Math.random() * 99, 9, 9, 9), 30);
  recorder.start();
  setTimeout(() => recorder.stop(), 900);
})"""


@pytest.mark.parametrize("key", ["", "any"])
def test_a_frame_plays_its_video(visit: Visit, key: str) -> None:
    def fill(route: Any) -> None:
        response = route.fetch()
        frame = {"video": "/v1/items/a/video#t=65.5", "name": "clip.webm#t=65.5", "caption": ""}
        hits = [hit | frame | {"metadata": {"seconds": 65.5}} for hit in response.json()["hits"]]
        route.fulfill(response=response, json=response.json() | {"hits": hits})

    tab = visit()
    video = bytes(tab.evaluate(RECORD))
    tab.route("**/v1/search", fill)
    tab.route("**/video", lambda route: route.fulfill(body=video, content_type="video/webm"))
    tab.evaluate("key => sessionStorage.setItem('coca.key', key)", key)
    tab.reload()
    expect(tab.locator(".tile-video").first).to_have_text("1:05")
    tab.locator(".tile-link").first.click()
    expect(tab.locator("dialog.item h2")).to_have_text("clip.webm, 1:05")
    tab.keyboard.press("i")
    expect(tab.locator(".item-panel")).not_to_contain_text("#t=")
    with tab.expect_download() as download:
        act(tab.locator("dialog.item"), "Download")
    assert download.value.suggested_filename == "clip.webm"
    tab.get_by_role("button", name="Play the video").click()
    tab.wait_for_function("() => document.querySelector('.item-stage video')?.currentTime > 0")


def test_a_file_that_is_no_image_is_reported(visit: Visit, watch: Watch, tmp_path: Path) -> None:
    watch.expected.add(422)
    file = tmp_path / "broken.png"
    file.write_bytes(b"no image")
    tab = visit()
    tab.set_input_files("#pick-uploads", file)
    expect(tab.locator("#uploads h2")).to_contain_text("1 failed")
    expect(tab.locator(".upload-failed")).to_contain_text("broken.png")


def test_an_image_that_needs_an_extra_says_so_in_words(
    visit: Visit, watch: Watch, tmp_path: Path
) -> None:
    watch.expected.add(422)
    file = tmp_path / "phone.heic"
    file.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    tab = visit()
    tab.set_input_files("#pick-uploads", file)
    failed = tab.locator(".upload-failed")
    expect(failed).to_contain_text(pip_install("heif"))
    expect(failed).not_to_contain_text(re.compile("Errno|/|Bearer"))


def test_selected_images_get_tags(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    for text in ("festive, shiny", "-shiny, red"):
        select(tab, tile, "Tag")
        tab.fill("#dialog-input", text)
        tab.get_by_role("button", name="Add tags").click()
        expect(tab.locator("#selection")).to_be_hidden()
        tab.wait_for_load_state("networkidle")
    tab.goto(f"{tab.url.split('?')[0]}?tag=festive")
    expect(tab.locator("#summary")).to_have_text("1 image")
    tile.locator(".tile-link").click()
    tab.keyboard.press("i")
    item = tab.locator("dialog.item")
    expect(item.locator(".tag-name")).to_have_text(["festive", "red"])
    item.get_by_role("button", name="Remove red").click()
    expect(item.locator(".tag-name")).to_have_text(["festive"])
    item.get_by_label("Add a tag").fill("new")
    tab.keyboard.press("Enter")
    expect(item.locator(".tag-name")).to_have_text(["festive", "new"])


def test_a_caption_is_corrected_found_and_restored(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    tile.locator(".tile-link").click()
    tab.keyboard.press("i")
    item = tab.locator("dialog.item")
    caption = item.get_by_role("textbox", name="Caption", exact=True)
    before = item.locator("h2").inner_text()
    fonts = "one => [one, document.body].map(it => getComputedStyle(it).fontFamily)"
    assert len(set(caption.evaluate(fonts))) == 1
    # A plus is the key of the zoom.
    uses = item.locator("use").evaluate_all("all => all.map(use => use.getAttribute('href'))")
    assert {"#icon-like", "#icon-unlike"} <= set(uses)
    assert item.locator(".item-bar > .button-icon").count() <= 4
    caption.fill("our kite Zorro")
    tab.keyboard.press("Enter")
    expect(item.locator("h2")).to_have_text("our kite Zorro")
    expect(caption).to_be_focused()
    for name in ("Anna", "Ben"):
        item.get_by_label("Add a name").fill(name)
        tab.keyboard.press("Enter")
        expect(item.locator(".tag", has_text=name)).to_be_visible()
    item.get_by_role("button", name="Remove Ben").click()
    expect(item.locator(".tag", has_text="Ben")).to_have_count(0)
    tab.emulate_media(reduced_motion="reduce")
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    assert tab.evaluate("axe.run()")["violations"] == []
    tab.keyboard.press("Escape")
    tab.fill("#search-text", "our kite Zorro")
    tab.keyboard.press("Enter")
    expect(tile).to_have_attribute("data-index", "0")
    tile.locator(".tile-link").click()
    for _ in range(2):
        item.get_by_role("button", name="Restore").first.click()
        expect(item.locator("h2")).to_have_text(before)
    expect(item.get_by_role("button", name="Restore")).to_have_count(0)
    expect(item.locator(".tag", has_text="Anna")).to_have_count(0)


def test_favourites_are_shown_and_filtered(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    tile.locator(".tile-link").click()
    button = tab.locator("dialog.item .mark-favourite")
    tab.keyboard.press("l")
    expect(button).to_have_attribute("aria-pressed", "true")
    tab.keyboard.press("Escape")
    expect(tile.locator(".tile-favourite")).to_be_visible()
    tab.locator(".facet-value", has_text="Favourite").click()
    expect(tab.locator("#summary")).not_to_have_text("14 images")
    expect(tile).to_be_visible()
    assert "tag=favourite" in tab.url
    tile.locator(".tile-link").click()
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")


def test_filters_narrow_the_wall_and_have_an_address(visit: Visit) -> None:
    tab = visit()
    # A wide page opens them itself, when its first items are there.
    expect(tab.locator("#filters")).to_be_visible()
    tab.locator(".facet-value", has_text="circle").first.click()
    count(tab, 4)
    assert "tag=circle" in tab.url or "circles" in tab.url
    tab.get_by_role("button", name="Clear all").click()
    count(tab, 13)
    tab.fill("#date-to", "2009-12-31")
    expect(tab.locator("#summary")).to_have_text("1 image")
    assert "to=2009" in tab.url


def test_what_all_images_share_is_not_a_filter_and_no_path_is_shown(visit: Visit) -> None:
    def carry(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for hit in body["hits"]:
            hit |= {"path": "/srv/photos/rome/a.png", "album": "/srv/photos/rome"}
        route.fulfill(response=answer, json=body)

    def count_values(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        shared = [{"value": "shared by all", "count": body["total"]}]
        folder = [{"value": "/srv/photos/rome", "count": 3}]
        pages = [{"value": "https://example.org/photo", "count": 12}]
        body["facets"] = [
            {"field": "metadata.set", "values": shared, "others": 0, "missing": 0},
            {"field": "metadata.page", "values": pages, "others": 0, "missing": 1},
            {"field": "album", "values": folder, "others": 0, "missing": 10},
        ]
        route.fulfill(response=answer, json=body)

    tab = visit()
    tab.route("**/v1/search", carry)
    tab.route("**/v1/facets", count_values)
    tab.goto(f"{tab.url}?q=circle")
    expect(tab.locator("#filters")).to_contain_text("rome")
    expect(tab.locator("#filters")).not_to_contain_text(re.compile("shared by all|example.org"))
    tab.locator(".tile-link").first.click()
    tab.keyboard.press("i")
    details = tab.locator(".item-panel > .item-section .details").last
    expect(details).to_contain_text("Folderrome")
    expect(details).not_to_contain_text(re.compile(r"Rank|Id\b|File\b"))
    assert "/srv" not in tab.locator("body").evaluate("body => body.outerHTML")


def test_filters_without_a_hit_can_be_cleared(visit: Visit) -> None:
    tab = visit("/?tag=no-such-tag")
    expect(tab.locator("#message h2")).to_have_text("No images with these filters")
    tab.locator("#message").get_by_role("button", name="Clear the filters").click()
    count(tab, 13)


def test_the_view_of_an_item_shows_its_record(visit: Visit) -> None:
    tab = visit("/?tag=circle")
    tab.locator(".tile-link").last.click()
    item = tab.locator("dialog.item")
    expect(item.locator("h2")).to_have_text("a red circle")
    expect(item.locator(".tag")).to_have_text(["circle", "red"])
    for text in ("200 pixels", "circles", "phone"):
        expect(item.locator(".details")).to_contain_text(text)
    link = item.locator(".details a")
    expect(link).to_have_text("https://example.org/photo")
    expect(link).to_have_attribute("href", "https://example.org/photo")


def test_selected_images_are_downloaded(visit: Visit, tmp_path: Path) -> None:
    tab = visit("/?tag=circle")
    boxes = tab.locator(".tile-check input")
    expect(boxes).to_have_count(4)
    saved = []
    for number in range(2):
        boxes.nth(number).click(force=True)
        with tab.expect_download() as download:
            tab.locator("#selection").get_by_role("button", name="Download").click()
        saved.append(tmp_path / download.value.suggested_filename)
        download.value.save_as(saved[-1])
    assert saved[0].name == "blue-circle.png"
    with zipfile.ZipFile(saved[1]) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["blue-circle.png", "green-circle.png"]
        dates = [one.date_time for one in archive.infolist()]
        assert dates == [(2013, 6, 15, 0, 0, 0), (2012, 6, 15, 0, 0, 0)]
        assert archive.read("blue-circle.png") == saved[0].read_bytes()


def test_near_duplicates_are_compared_and_hidden(visit: Visit) -> None:
    tab = visit()
    tab.get_by_role("button", name="More", exact=True).click()
    tab.get_by_role("button", name="Near-duplicates").click()
    group = tab.locator(".group", has_text="copy-of-circle.jpg")
    expect(group).to_contain_text("red-circle.png")
    assert "/" not in "".join(group.locator("figcaption").all_inner_texts())
    assert "view=duplicates" in tab.url
    # Nothing is hidden before its list is confirmed.
    group.get_by_role("button", name="Hide copy-of-circle.jpg").click()
    expect(tab.locator(".dialog")).to_contain_text("copy-of-circle.jpg")
    confirm(tab)
    expect(group).to_have_count(0)
    tab.locator(".toast").get_by_role("button", name="Undo").click()
    expect(group).to_be_visible()
    tab.go_back()
    count(tab, 13)


def open_explained(visit: Visit, words: list[dict[str, Any]], **options: Any) -> Any:
    """Open an image of a search whose explanation has some words."""
    tab = visit("/?q=red+circle", **options)

    def fill(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"words": words})

    tab.route("**/v1/explain", fill)
    tab.locator(".tile-link").first.click()
    tab.wait_for_selector("dialog.item[open]")
    return tab


@pytest.mark.parametrize(
    ("probability", "line"), [(0.62, "Looks like: dalmatian 62 %"), (0.3, "Looks like it")]
)
def test_what_an_image_looks_like_is_named_where_the_model_is_sure(
    visit: Visit, probability: float, line: str
) -> None:
    tab = visit()

    def answer(route: Any, hits: bool) -> None:
        response = route.fetch()
        found = response.json()
        if hits:
            seen = {"metadata": {"looks_like": {"circle": 84, "shape": 90}}}
            found["hits"] = [
                hit | {"reason": "looks like", "likely": True} | seen for hit in found["hits"]
            ]
        else:
            found["labels"] = [{"label": "dalmatian", "probability": probability}]
        route.fulfill(response=response, json=found)

    tab.route("**/v1/search", lambda route: answer(route, hits=True))
    tab.route("**/v1/explain", lambda route: answer(route, hits=False))
    tab.fill("#search-text", "red circle")
    tab.keyboard.press("Enter")
    expect(tab.locator("#result-tools select")).to_be_attached()
    expect(tab.locator(".stale")).to_have_count(0)
    expect(tab.locator(".tile-why").first).to_have_text("Looks like: circle 84 %")
    tab.locator(".tile-link").first.click()
    tab.keyboard.press("i")
    expect(tab.locator(".details").last).not_to_contain_text("84")
    tab.locator(".why-opener summary").first.click()
    expect(tab.locator(".why").get_by_text("dalmatian")).to_be_visible()
    expect(tab.locator(".why-reason p")).to_have_text(line)


OPACITIES = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [...data].filter((_, at) => at % 4 === 3);
}"""


def word(text: str, support: float, *cells: float) -> dict[str, Any]:
    return {"word": text, "log_p": -1.0, "support": support, "map": [list(cells)]}


def test_a_word_is_shown_on_one_scale_and_only_where_it_is_seen(visit: Visit) -> None:
    words = [word("red", 9.3, 0.0, 0.1), word("circle", 0.5, 0.1, 0.16), word("dog", -0.1, 0, 0.1)]
    tab = open_explained(visit, words)
    expect(tab.locator(".why-word")).to_have_text(
        ["red: likely", "circle: perhaps", "dog: not seen"]
    )
    found = []
    for name in ("red: likely", "circle: perhaps"):
        tab.get_by_role("button", name=name).hover()
        found.append(tab.locator(".item-frame .why-map").evaluate(OPACITIES))
    # The same cosine has the same opacity in each map.
    assert found[0][0] == 0 < found[0][1] == found[1][0] < found[1][1]
    tab.get_by_text("dog: not seen").hover()
    expect(tab.locator(".why-map")).to_have_count(0)


@pytest.mark.parametrize("phone", [False, True], ids=["wide", "phone"])
def test_a_chosen_word_stays_chosen_while_stepping(visit: Visit, phone: bool) -> None:
    words = [word("red", 9.3, 0.0, 0.1), word("circle", 0.5, 0.1, 0.16)]
    tab = open_explained(visit, words, **(PHONE if phone else {}))
    chip = tab.locator(".why-word", has_text="circle")
    expect(chip).to_have_text("circle: perhaps")
    stage, place = tab.locator(".item-stage").bounding_box(), chip.bounding_box()
    assert stage["y"] < place["y"] < stage["y"] + 100
    chip.focus()
    tab.keyboard.press("Enter")
    canvas = tab.locator(".item-frame .why-map")
    expect(canvas).to_have_count(1)
    with tab.expect_response("**/v1/explain"):
        tab.keyboard.press("ArrowRight")
        # The words are there before the next image is explained.
        expect(chip).to_have_text("circle")
    expect(chip).to_have_text("circle: perhaps")
    expect(chip).to_have_attribute("aria-pressed", "true")
    expect(chip).to_be_focused()
    expect(canvas).to_have_count(1)
    tab.keyboard.press("Enter")
    expect(canvas).to_have_count(0)


def test_the_parts_of_a_score_are_its_sum_and_the_next_image_is_explained(visit: Visit) -> None:
    tab = open_explained(visit, [])
    tab.keyboard.press("i")
    tab.get_by_text("Why?", exact=True).click()
    rows = tab.locator(".why details .details")
    expect(rows).to_be_hidden()
    tab.get_by_text("Parts of the score").click()
    expect(rows).to_contain_text("Image: red circle")
    *parts, total = map(float, rows.locator("dd").all_inner_texts())
    assert sum(parts) == pytest.approx(total, abs=0.003)
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_text("Parts of the score")).to_be_visible()


def test_a_wrong_reason_is_corrected_where_it_is_named(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    select(tab, tile, "Tag")
    tab.fill("#dialog-input", "zeppelin")
    tab.get_by_role("button", name="Add tags").click()
    expect(tab.locator("#selection")).to_be_hidden()
    tab.fill("#search-text", "zeppelin")
    tab.keyboard.press("Enter")
    expect(tile.locator(".tile-why")).to_have_text("Tag: zeppelin")
    tile.locator(".tile-link").click()
    tab.keyboard.press("i")
    item = tab.locator("dialog.item")
    item.get_by_role("button", name="Wrong tag? Remove").click()
    expect(item.locator(".tag")).to_have_count(0)
    expect(item.get_by_text("Tag: zeppelin")).to_have_count(0)
    caption = item.get_by_role("textbox", name="Caption", exact=True)
    caption.fill("a zeppelin")
    tab.keyboard.press("Enter")
    expect(item.locator("h2")).to_have_text("a zeppelin")
    tab.keyboard.press("Escape")
    # The wall is read again, and the keys stay where they were.
    expect(tile.locator(".tile-why")).to_have_text("a zeppelin")
    expect(tile.locator(".tile-link")).to_be_focused()
    tile.locator(".tile-link").click()
    item.get_by_role("button", name="Correct the caption").click()
    expect(caption).to_be_focused()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service over two photos and a video of three frames."""
    pytest.importorskip("av", reason="the extra video is not installed")
    import coca
    from coca.workflows.collections.index import index_images
    from tiny_model import write_model
    from tiny_video import video

    root = tmp_path_factory.mktemp("filmed")
    model, folder = write_model(root / "model"), root / "images"
    folder.mkdir()
    for color in ("red", "blue"):
        render("square", color, (300, 200)).save(folder / f"{color}.png")
        # The video comes first, and has a next image.
        os.utime(folder / f"{color}.png", (FILE_DATE, FILE_DATE))
    (folder / "clip.mp4").write_bytes(video(frames=60))
    uri = str(root / "images.db")
    index_images([folder], coca.load(model, device="cpu"), uri=uri, frame_interval_s=1.0)
    with serving("--uri", uri, "--model", str(model), cache=root / "cache") as found:
        yield found.url


def test_a_video_is_one_tile_whose_frames_are_in_its_view(filmed: str, visit: Visit) -> None:
    tab = visit(at=filmed)
    count(tab, 3)
    clip = tab.locator(".tile", has=tab.locator(".tile-video"))
    expect(clip).to_have_count(1)
    clip.locator(".tile-link").click()
    tab.keyboard.press("i")
    frames = tab.locator(".frame")
    expect(frames).to_have_count(3)
    assert [one.get_attribute("aria-label") for one in frames.all()] == ["0:00", "0:01", "0:02"]
    frames.nth(1).press("Enter")
    expect(tab.locator(".item-panel")).to_contain_text("0:01")
    expect(frames.nth(1)).to_be_focused()
    expect(frames.nth(1)).to_have_attribute("aria-current", "true")
    if AXE.is_file():
        tab.emulate_media(reduced_motion="reduce")
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        assert tab.evaluate("axe.run()")["violations"] == []
    # The frame has the neighbours of its video's tile.
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowLeft")
    expect(frames).to_have_count(3)
    tab.keyboard.press("Escape")
    select(tab, clip, "Hide")
    tab.get_by_role("dialog").get_by_role("button", name="Hide").click()
    count(tab, 2)
    expect(clip).to_have_count(0)
    tab.get_by_role("button", name="Undo").click()
    count(tab, 3)
