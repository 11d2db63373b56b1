"""Items on the page: filters, tags, captions, questions, uploads, deletion, export, duplicates."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-page")

from playwright.sync_api import expect

from coca.search.records import content_id
from page_service import Watch, render

pytestmark = pytest.mark.page

Visit = Callable[..., Any]


NEEDED = {"/v1/items", "/v1/items/delete", "/v1/facets", "/v1/caption"}


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


def send(tab: Any, path: str, method: str, body: dict[str, Any]) -> None:
    tab.evaluate(
        """([path, method, body]) => fetch(path, {
          method, headers: {"Content-Type": "application/json"}, body: JSON.stringify(body),
        }).then(answer => answer.json())""",
        [path, method, body],
    )


@pytest.fixture
def uploaded(visit: Visit, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The page with one image more, and its tile; the image is deleted after the test."""
    file = tmp_path / "star.png"
    render("triangle", "purple", (120, 90)).save(file)
    id = content_id(file.read_bytes())
    tab = visit()
    count(tab, 13)
    add(tab, file)
    count(tab, 14)
    yield tab, tab.locator(f'.tile[data-id="{id}"]')
    send(tab, "/v1/items/delete", "POST", {"ids": [id]})


def test_a_deleted_image_comes_back_from_the_trash(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    tab.fill("#search-text", "a purple triangle")
    tab.keyboard.press("Enter")
    expect(tile.locator(".tile-match")).to_be_attached()
    select(tab, tile, "Delete")
    expect(tile).to_have_count(0)
    expect(tab.locator("#selection")).to_be_hidden()
    tab.locator(".toast").get_by_role("button", name="Undo").click()
    expect(tile).to_be_visible()
    select(tab, tile, "Delete")
    expect(tile).to_have_count(0)
    tab.get_by_role("button", name="Trash").click()
    expect(tab.locator("#summary")).to_have_text("1 image")
    select(tab, tile, "Restore")
    expect(tab.locator("#message h2")).to_have_text("The trash is empty")
    tab.locator("#message").get_by_role("button", name="All images").click()
    count(tab, 14)


def test_an_image_of_the_trash_is_deleted_after_a_confirmation(
    uploaded: tuple[Any, Any],
) -> None:
    tab, tile = uploaded
    select(tab, tile, "Delete")
    expect(tile).to_have_count(0)
    tab.get_by_role("button", name="Trash").click()
    tile.locator(".tile-link").click()
    expect(tab.locator("dialog.item")).to_contain_text("In the trash until")
    tab.keyboard.press("Escape")
    select(tab, tile, "Delete forever")
    text = tab.locator(".dialog-text")
    expect(text).to_contain_text("The uploaded file is deleted, too.")
    tab.locator(".dialog").get_by_role("button", name="Cancel").click()
    expect(tab.locator("#selection")).to_contain_text("1 image selected")
    tab.locator("#selection").get_by_role("button", name="Delete forever").click()
    tab.locator(".dialog").get_by_role("button", name="Delete").click()
    expect(tab.locator("#message h2")).to_have_text("The trash is empty")


def test_a_deletion_states_which_files_are_deleted(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    other = tab.locator(".tile", has=tab.get_by_label("a green square", exact=True))
    tile.locator("input").click(force=True)
    select(tab, other, "Delete")
    expect(other).to_have_count(0)
    tab.get_by_role("button", name="Trash").click()
    count(tab, 2)
    text = tab.locator(".dialog-text")
    for tiles, expected in (
        ([other], "The file stays where it is."),
        ([tile], "1 uploaded file will be deleted, too; the other files stay"),
    ):
        for one in tiles:
            one.locator("input").click(force=True)
        tab.locator("#selection").get_by_role("button", name="Delete forever").click()
        expect(text).to_contain_text(expected)
        tab.locator(".dialog").get_by_role("button", name="Cancel").click()
    tab.locator("#selection").get_by_role("button", name="Restore").click()
    expect(tab.locator("#message h2")).to_have_text("The trash is empty")


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
    expect(failed).to_contain_text("pip install 'coca-captioners[heif]'")
    expect(failed).not_to_contain_text(re.compile("Errno|/|Bearer"))


def test_selected_images_get_tags_and_are_in_several_albums(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    for name, text, label in (
        ("Tag", "festive, shiny", "Add tags"),
        ("Album", "Party, Best of", "Add"),
        ("Album", "Birthday, -Best of", "Add"),
    ):
        select(tab, tile, name)
        tab.fill("#dialog-input", text)
        tab.get_by_role("button", name=label, exact=True).click()
        expect(tab.locator("#selection")).to_be_hidden()
    for album, number in (("Party", 1), ("Birthday", 1), ("Best of", 0)):
        tab.goto(f'{tab.url.split("?")[0]}?tag=festive&in.metadata.albums="{album}"')
        expect(tab.locator("#summary")).to_have_text("1 image" if number else "0 images")
    tab.go_back()
    tile.locator(".tile-link").click()
    item = tab.locator("dialog.item")
    expect(item.locator(".tag-name")).to_have_text(["festive", "shiny", "Party", "Birthday"])
    item.get_by_role("button", name="Remove Party").click()
    expect(item.locator(".tag-name")).to_have_text(["festive", "shiny", "Birthday"])


def test_an_album_leaves_the_folder_of_an_image_as_it_is(visit: Visit) -> None:
    tab = visit("/?tag=circle")
    tab.get_by_label("a red circle", exact=True).click()
    item = tab.locator("dialog.item")
    item.get_by_label("Add to an album").fill("Round")
    tab.keyboard.press("Enter")
    expect(item.locator(".tag-name")).to_have_text(["circle", "red", "Round"])
    expect(item.locator(".details")).to_contain_text("circles")
    item.get_by_role("button", name="Remove Round").click()
    expect(item.locator(".tag-name")).to_have_text(["circle", "red"])


def test_favorites_and_ratings_are_shown_and_filtered(uploaded: tuple[Any, Any]) -> None:
    tab, tile = uploaded
    tile.locator(".tile-link").click()
    item = tab.locator("dialog.item")
    tab.keyboard.press("l")
    expect(item.get_by_role("button", name="Favorite")).to_have_attribute("aria-pressed", "true")
    item.get_by_role("button", name="4 of 5 stars").click()
    expect(item.locator(".mark-star[aria-pressed=true]")).to_have_count(4)
    tab.keyboard.press("Escape")
    expect(tile.locator(".tile-favorite")).to_be_visible()
    tab.locator(".facet-value", has_text="★★★★").click()
    expect(tab.locator("#summary")).to_have_text("1 image")
    tab.locator(".facet", has_text="Favorites").locator("input").check()
    expect(tab.locator("#summary")).to_have_text("1 image")
    expect(tile).to_be_visible()


def test_filters_narrow_the_wall_and_have_an_address(visit: Visit) -> None:
    tab = visit()
    # A wide page opens them itself, when its first items are there.
    expect(tab.locator("#filters")).to_be_visible()
    tab.locator(".facet-value", has_text="circle").first.click()
    count(tab, 4)
    assert "tag=circle" in tab.url or "circles" in tab.url
    tab.get_by_role("button", name="Clear all").click()
    count(tab, 13)
    tab.locator(".bar-button").first.click()
    expect(tab.locator("#summary")).to_have_text("1 image")
    assert "from=2009" in tab.url


def test_filters_without_a_hit_can_be_cleared(visit: Visit) -> None:
    tab = visit("/?tag=no-such-tag")
    expect(tab.locator("#message h2")).to_have_text("No images with these filters")
    tab.locator("#message").get_by_role("button", name="Clear the filters").click()
    count(tab, 13)


def test_a_caption_shows_where_the_model_looks(visit: Visit) -> None:
    tab = visit()
    tab.locator(".tile-link").first.click()
    tab.get_by_role("button", name="Describe this image").click()
    word = tab.locator(".word").first
    expect(word).to_be_visible()
    word.hover()
    expect(tab.locator("canvas.attention")).to_be_visible()
    image = tab.locator(".item-image").bounding_box()
    overlay = tab.locator("canvas.attention").bounding_box()
    assert overlay == pytest.approx(image, abs=1.5)


def with_capabilities(tab: Any, *names: str) -> None:
    """Load the page again as one of a service whose model has these capabilities."""

    def fill(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"capabilities": names})

    tab.route("**/v1/collections", fill)
    tab.reload()
    tab.locator(".tile-link").first.click()


def test_a_model_without_a_head_for_questions_is_asked_none(visit: Visit) -> None:
    tab = visit()
    tab.locator(".tile-link").first.click()
    expect(tab.get_by_role("button", name="Describe this image")).to_be_visible()
    expect(tab.locator("#question")).to_have_count(0)


def test_a_model_that_only_embeds_writes_no_caption(visit: Visit) -> None:
    tab = visit()
    with_capabilities(tab)
    expect(tab.locator("dialog.item h2")).to_be_visible()
    for name in ("Describe this image", "Ask"):
        expect(tab.get_by_role("button", name=name)).to_have_count(0)


def test_a_model_with_a_head_answers_a_question(visit: Visit) -> None:
    tab = visit()
    with_capabilities(tab, "caption", "answer")
    expect(tab.get_by_role("button", name="Describe this image")).to_be_visible()
    answers = [{"label": "blue", "probability": 0.75}, {"label": "red", "probability": 0.25}]
    tab.route("**/v1/answer", lambda route: route.fulfill(json={"answers": answers}))
    tab.fill("#question", "what color is it")
    tab.keyboard.press("Enter")
    expect(tab.locator(".answers li")).to_have_text(["blue75 %", "red25 %"])


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


def test_exported_files_hold_the_selected_images(visit: Visit, tmp_path: Path) -> None:
    tab = visit("/?tag=circle")
    boxes = tab.locator(".tile-check input")
    expect(boxes).to_have_count(4)
    for number in range(2):
        boxes.nth(number).click(force=True)
    saved = {}
    for label in ("Records as JSON lines", "Images as ZIP"):
        tab.locator("#selection").get_by_role("button", name="Export").click()
        with tab.expect_download() as download:
            tab.get_by_role("button", name=label).click()
        saved[label] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[label])
    lines = saved["Records as JSON lines"].read_text().splitlines()
    names = [json.loads(line)["name"] for line in lines]
    with zipfile.ZipFile(saved["Images as ZIP"]) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == names == ["blue-circle.png", "green-circle.png"]


def test_near_duplicates_are_compared_side_by_side(visit: Visit) -> None:
    tab = visit()
    tab.get_by_role("button", name="Near-duplicates").click()
    tab.locator("#min-similarity").fill("0.995")
    group = tab.locator(".group", has_text="copy-of-circle.jpg")
    expect(group).to_contain_text("red-circle.png")
    assert "view=duplicates" in tab.url
    tab.go_back()
    count(tab, 13)


def test_the_best_of_all_near_duplicates_stay(visit: Visit) -> None:
    tab = visit("/?view=duplicates")
    tab.locator("#min-similarity").fill("0.995")
    groups = tab.locator(".group")
    expect(groups.filter(has_text="copy-of-circle.jpg")).to_be_visible()
    images, number = tab.locator(".candidate").count(), groups.count()
    best = [group.locator(".candidate-name").first.inner_text() for group in groups.all()]
    tab.get_by_role("button", name="Keep the best of all").click()
    moved = images - number
    plural = "s" if moved > 1 else ""
    expect(tab.locator(".dialog-text")).to_contain_text(f"{moved} image{plural} of {number} group")
    tab.get_by_role("button", name="Move to the trash").click()
    expect(tab.locator("#duplicates")).to_contain_text("No two images")
    tab.locator(".toast").get_by_role("button", name="Undo").click()
    expect(groups).to_have_count(number)
    assert [group.locator(".candidate-name").first.inner_text() for group in groups.all()] == best
