import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.demo.emoji.packages import (
    SETS,
    WORDS,
    Concept,
    install_packages,
    read_concepts,
    read_drawings,
)
from tiny_emoji import CONCEPTS, hash_of, write_packages

pytest.importorskip("resvg_py", reason="the extra `demo` is not installed")

BY_NAME = {it.name: it for it in SETS}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packages(tmp_path_factory.mktemp("npm") / "node_modules")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_no_set_is_the_one_that_is_kept_for_outside_checks() -> None:
    assert not any("emojione" in it.package for it in SETS)
    assert {it.vendor for it in SETS} == {"noto", "twemoji", "fluent", "openmoji"}
    for one in (*SETS, WORDS):
        assert one.version.count(".") == 2
        assert one.licence in ("Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-SA-4.0")


def test_parts_of_emoji_are_no_concepts(packages: Path) -> None:
    concepts = read_concepts(packages)
    assert len(concepts) == len(CONCEPTS) - 2
    assert not {"1f3fb", "1f1e6"} & concepts.keys()


def test_labels_are_humanized(packages: Path) -> None:
    concepts = read_concepts(packages)
    assert concepts["1f1f5-1f1ea"].label == "flag of Peru"
    assert concepts["1f1f5-1f1ea"].flag
    assert concepts["1f48f"].label == "kiss, woman, man"
    assert concepts["1f48f"].toned
    heart = concepts["2764"]
    # A tag that the label contains adds nothing.
    assert heart.tags == ("love", "emotion")
    assert (heart.group, heart.subgroup) == ("smileys-emotion", "some-of-them")


def test_captions_are_the_label_alone_and_with_some_tags() -> None:
    concept = Concept("1f436", "dog", ("pet", "puppy", "animal", "face"), "g", "s", toned=False)
    captions = concept.captions()
    assert captions[0] == "dog"
    assert captions == concept.captions()
    assert 3 <= len(set(captions)) == len(captions)
    for caption in captions[1:]:
        label, *tags = caption.split(", ")
        assert label == "dog"
        assert 1 <= len(tags) <= 3
        assert len(set(tags)) == len(tags)
        assert set(tags) <= set(concept.tags)
    assert Concept("1f436", "dog", (), "g", "s", toned=False).captions() == ("dog",)


def test_vectors_are_rendered_at_any_size_on_a_clear_ground(packages: Path) -> None:
    draw = read_drawings(BY_NAME["noto"], packages)["1f401"]
    for side in (24, 64):
        image = pixels(draw(side))
        assert image.shape == (side, side, 4)
        assert image[0, 0, 3] == 0
        red, green, blue, alpha = (int(it) for it in image[side // 2, side // 2])
        assert (red << 16 | green << 8 | blue, alpha) == (hash_of("1f401"), 255)
    assert draw(24) == draw(24)


def test_images_are_scaled_and_known_without_the_style_selector(packages: Path) -> None:
    drawings = read_drawings(BY_NAME["fluent-3d"], packages)
    image = pixels(drawings["2764"](20))
    assert image.shape == (20, 20, 4)
    assert image[0, 0, 3] == 0
    assert image[10, 10, 3] == 255


def test_skin_tones_and_aliases_are_left_out(packages: Path) -> None:
    drawings = read_drawings(BY_NAME["twemoji"], packages)
    assert "1f48f" in drawings
    assert not any("1f3fb" in code for code in drawings)
    assert "1faf8" not in drawings


def test_a_missing_package_is_reported_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"npm install emojibase-data@17\.0\.0"):
        read_concepts(tmp_path)
    with pytest.raises(DataError, match="does not contain the npm package @iconify-json/noto"):
        read_drawings(BY_NAME["noto"], tmp_path)


def test_a_damaged_package_is_a_sentence(tmp_path: Path) -> None:
    packages = write_packages(tmp_path)
    (packages / "@iconify-json/noto/icons.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"icons.json cannot be read as JSON"):
        read_drawings(BY_NAME["noto"], packages)


def test_npm_installs_every_set_at_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def install(folder: Path, packages: list[str]) -> Path:
        asked.extend(packages)
        return folder / "node_modules"

    monkeypatch.setattr("coca.demo.emoji.packages.npm_install", install)
    assert install_packages(tmp_path) == tmp_path / "node_modules"
    assert asked == [f"{it.package}@{it.version}" for it in (*SETS, WORDS)]
