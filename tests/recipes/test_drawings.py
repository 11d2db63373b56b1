import io
import json
from pathlib import Path

import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from drawings import (
    ICON_SETS,
    MAX_ALIKE,
    SHORTCODES,
    ClipArt,
    captions_of,
    clipart_samples,
    icon_samples,
    main,
    pack_drawings,
    read_clipart,
    spoken,
)
from emoji_sets import WORDS
from tiny_emoji import write_json, write_packages

pytest.importorskip("resvg_py", reason="the extra `drawings` is not installed")

BY_NAME = {it.name: it for it in ICON_SETS}
CIRCLE = '<circle cx="8" cy="8" r="6" fill="red"/>'


def write_icons(packages: Path, name: str, icons: list[str], **categories: list[str]) -> None:
    one = BY_NAME[name]
    folder = packages / one.package
    write_json(folder / "package.json", {"version": one.version})
    write_json(folder / "icons.json", {"icons": {it: {"body": CIRCLE} for it in icons}})
    write_json(folder / "metadata.json", {"categories": categories})


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    packages = write_packages(tmp_path / "node_modules")
    for table in SHORTCODES:
        write_json(packages / WORDS.package / "en" / "shortcodes" / f"{table}.json", {})
    names = {"2764": ["heart", "love_heart"], "1F400": "rat"}
    write_json(packages / WORDS.package / "en" / "shortcodes" / "github.json", names)
    for one in ICON_SETS:
        write_icons(packages, one.name, ["animal3"], **{it: [] for it in one.categories})
    return packages


def write_svg(path: Path, title: str, *keywords: str, licence: str = "PublicDomain") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bag = "".join(f"<rdf:li>{key}</rdf:li>" for key in keywords)
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="20pt"><metadata>'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>{bag}</rdf:Bag></dc:subject>"
        f'<cc:license rdf:resource="http://web.resource.org/cc/{licence}"/></cc:Work></rdf:RDF>'
        '</metadata><rect width="20" height="10" fill="blue"/></svg>',
        encoding="utf-8",
    )


def test_icons_of_emoji_get_label_and_tags_by_any_of_their_names(packages: Path) -> None:
    write_icons(packages, "fxemoji", ["animal1", "loveheart", "unknown", "rat"])
    samples = {it.key: it for it in icon_samples(BY_NAME["fxemoji"], packages, size_px=16)}
    assert samples.keys() == {"fxemoji/animal1", "fxemoji/loveheart", "fxemoji/rat"}
    heart = samples["fxemoji/loveheart"]
    assert heart.labels == ("red heart",)
    assert any("love" in caption for caption in heart.captions[1:])
    assert "love" in heart.metadata["keywords"]
    assert samples["fxemoji/rat"].captions == ("animal 0",)


def test_variants_of_an_emoji_share_its_captions(packages: Path) -> None:
    names = ["animal-1", "animal-3-2", "face-2-medium-skin-tone"]
    write_icons(packages, "streamline-emojis", names)
    samples = list(icon_samples(BY_NAME["streamline-emojis"], packages, size_px=16))
    assert [it.labels for it in samples] == [("animal 3",)]


def test_other_icons_are_read_by_category_and_named_by_their_words(packages: Path) -> None:
    names = ["birthday-cake", "sofa-two", "align-left"]
    write_icons(packages, "icon-park", names, Edit=["align-left"], **_all("Foods", names[:2]))
    samples = list(icon_samples(BY_NAME["icon-park"], packages, size_px=24))
    assert [it.captions for it in samples] == [("birthday cake",), ("sofa",)]
    assert Image.open(io.BytesIO(samples[0].image)).size == (24, 24)


def _all(name: str, icons: list[str]) -> dict[str, list[str]]:
    return {it: icons if it == name else [] for it in BY_NAME["icon-park"].categories}


@pytest.mark.parametrize(
    ("name", "words"),
    [("ice-cream-3", "ice cream"), ("one", "one"), ("hot-dog-one-two", "hot dog"), ("tv", "tv")],
)
def test_a_name_loses_the_number_of_its_variant(name: str, words: str) -> None:
    assert spoken(name) == words


def test_clip_art_outside_the_public_domain_or_its_subjects_is_left_out(tmp_path: Path) -> None:
    write_svg(tmp_path / "animals" / "a.svg", "Bunny", "rabbit")
    write_svg(tmp_path / "animals" / "b.svg", "Cow", licence="by-nc")
    write_svg(tmp_path / "shapes" / "c.svg", "Star")
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "d.svg").write_text("<svg", encoding="utf-8")
    assert [it.title for it in read_clipart(tmp_path)] == ["bunny"]
    with pytest.raises(DataError, match="has no clip art; install Debian's package openclipart-s"):
        read_clipart(tmp_path / "none")


def test_titles_of_collections_are_no_captions(tmp_path: Path) -> None:
    for number in range(5):
        write_svg(tmp_path / "animals" / f"{number}.svg", "Nice animals", "animal", f"kind{number}")
    write_svg(tmp_path / "animals" / "own.svg", "clipart by Someone - big_dog", "dog", "clip_art")
    found = {it.path.name: it for it in read_clipart(tmp_path)}
    assert found["0.svg"].title == ""
    assert found["own.svg"].title == "big dog"
    assert found["own.svg"].keywords == ("dog",)


@pytest.mark.parametrize(
    ("title", "keywords", "captions"),
    [
        ("big dog", ("pet", "animal"), ("big dog", "big dog, pet, animal")),
        ("big dog", (), ("big dog",)),
        # A title in another language, or a name.
        ("lumaca", ("insect", "animal"), ("insect, animal",)),
        ("lumaca", ("insect",), ()),
        ("", (), ()),
    ],
)
def test_captions_of_clip_art(
    title: str, keywords: tuple[str, ...], captions: tuple[str, ...]
) -> None:
    one = ClipArt(Path("a.svg"), title, keywords)
    assert captions_of(one, {"big", "dog"}) == captions


def test_clip_art_of_any_shape_is_centered_on_a_square(tmp_path: Path) -> None:
    write_svg(tmp_path / "food" / "a.b.svg", "Cake", "cake")
    (sample,) = clipart_samples(tmp_path, known_words=set(), size_px=32)
    image = Image.open(io.BytesIO(sample.image))
    assert (image.size, image.mode) == ((32, 32), "RGBA")
    # A rectangle in the corner of its page, twice as wide as high, fills the width.
    assert image.getpixel((16, 4)) == (0, 0, 0, 0)
    assert image.getpixel((1, 16)) == image.getpixel((28, 16)) == (0, 0, 255, 255)
    assert sample.key == "openclipart/food/a-b-svg"


def test_drawings_that_no_caption_distinguishes_are_read_a_few_times(tmp_path: Path) -> None:
    for number in range(9):
        write_svg(tmp_path / "food" / f"{number}.svg", "", "cake", "dessert")
    write_svg(tmp_path / "food" / "own.svg", "", "tea", "cup")
    keys = [it.key for it in clipart_samples(tmp_path, known_words=set(), size_px=8)]
    assert len(keys) == MAX_ALIKE + 1
    assert "openclipart/food/own-svg" in keys


def test_shards_of_all_sets_are_written_with_their_terms(packages: Path, tmp_path: Path) -> None:
    write_svg(tmp_path / "clip" / "food" / "cake.svg", "Animal", "cake")
    packed = pack_drawings(tmp_path / "out", packages, clipart=tmp_path / "clip", size_px=16)
    assert packed.samples["fxemoji"] == 1
    assert packed.samples["openclipart"] == 1
    source = open_source(ShardsConfig(path=f"{tmp_path}/out/*.tar"))
    assert len(source) == sum(packed.samples.values())
    terms = json.loads((tmp_path / "out" / "sets.json").read_text())["sets"]
    assert {it["name"] for it in terms} == {*packed.samples, "emojibase"}
    assert all(it["licence"] and it["source"] for it in terms)
    assert "openclipart" not in pack_drawings(tmp_path / "out", packages, size_px=16).samples


def test_reserved_sets_are_never_read() -> None:
    named = {word for one in ICON_SETS for word in (one.name, one.vendor, one.package)}
    assert not [it for it in named if "emojione" in it or "openmoji" in it]


def test_the_tool_counts_the_images_of_each_set(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_svg(tmp_path / "clip" / "food" / "cake.svg", "Animal", "cake")
    clipart = ["--clipart", str(tmp_path / "clip"), "--size-px", "16"]
    main([str(tmp_path / "out"), "--packages", str(packages), *clipart])
    lines = capsys.readouterr().out.splitlines()
    assert "openclipart:               1 images" in lines
    assert lines[-1].endswith(f"images are in {tmp_path / 'out'}")
