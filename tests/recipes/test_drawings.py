import json
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from drawings import ICON_SETS, SHORTCODES, pack_drawings, read_clipart
from emoji_sets import WORDS
from tiny_emoji import write_json, write_packages

pytest.importorskip("resvg_py", reason="the extra `drawings` is not installed")

CIRCLE = '<circle cx="8" cy="8" r="6" fill="red"/>'


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    packages = write_packages(tmp_path / "node_modules")
    for table in SHORTCODES:
        write_json(packages / WORDS.package / "en" / "shortcodes" / f"{table}.json", {})
    for one in ICON_SETS:
        folder = packages / one.package
        write_json(folder / "package.json", {"version": one.version})
        write_json(folder / "icons.json", {"icons": {"animal3": {"body": CIRCLE}}})
        write_json(folder / "metadata.json", {"categories": {it: [] for it in one.categories}})
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


def test_clip_art_outside_the_public_domain_or_its_subjects_is_left_out(tmp_path: Path) -> None:
    write_svg(tmp_path / "animals" / "a.svg", "Bunny", "rabbit")
    write_svg(tmp_path / "animals" / "b.svg", "Cow", licence="by-nc")
    write_svg(tmp_path / "shapes" / "c.svg", "Star")
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "d.svg").write_text("<svg", encoding="utf-8")
    assert [it.title for it in read_clipart(tmp_path)] == ["bunny"]
    with pytest.raises(DataError, match="has no clip art; install Debian's package openclipart-s"):
        read_clipart(tmp_path / "none")


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
