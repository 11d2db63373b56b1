import json
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from drawings import (
    ICON_SETS,
    MAX_ALIKE,
    SHORTCODES,
    clipart_samples,
    icon_samples,
    pack_drawings,
    read_clipart,
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


def test_clip_art_outside_the_public_domain_or_its_subjects_is_left_out(tmp_path: Path) -> None:
    write_svg(tmp_path / "animals" / "a.svg", "Bunny", "rabbit")
    write_svg(tmp_path / "animals" / "b.svg", "Cow", licence="by-nc")
    write_svg(tmp_path / "shapes" / "c.svg", "Star")
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "d.svg").write_text("<svg", encoding="utf-8")
    assert [it.title for it in read_clipart(tmp_path)] == ["bunny"]
    with pytest.raises(DataError, match="has no clip art; install Debian's package openclipart-s"):
        read_clipart(tmp_path / "none")


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
