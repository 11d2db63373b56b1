import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.folder import ClassFoldersConfig, ClassFolderSource, read_names
from coca.processing.image import decode
from tiny_data import image_bytes


def fill(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    return root


def opened(root: Path, **settings: Any) -> ClassFolderSource:
    source = open_source(ClassFoldersConfig(path=str(root), **settings))
    assert isinstance(source, ClassFolderSource)
    return source


def labels(source: ClassFolderSource) -> list[tuple[str, ...]]:
    return [(s.key, *s.labels) for s in (source.read(row) for row in range(len(source)))]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.json", '{"n01": "tench", "n02": "great white shark", "n03": "unused"}'),
        ("names.json", '{"0": ["n01", "tench"], "1": ["n02", "great_white_shark"]}'),
        ("names.txt", "n01 tench, Tinca tinca\nn02 great white shark, white shark\n\n"),
    ],
)
def test_a_file_maps_folders_to_class_names(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    root = fill(tmp_path / "val", "n01/a.JPEG", "n02/b.JPEG")
    source = opened(root, names=str(tmp_path / file))
    assert labels(source) == [("n01/a", "tench"), ("n02/b", "great white shark")]
    assert source.classes == ("great white shark", "tench")


def test_folders_by_number_are_named_by_their_position_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps([f"class {n}" for n in range(12)]))
    root = fill(tmp_path / "v2", "10/a.png", "2/b.png")
    source = opened(root, names=str(tmp_path / "names.json"))
    assert labels(source) == [("10/a", "class 10"), ("2/b", "class 2")]


def test_without_a_file_folders_are_class_names(tmp_path: Path) -> None:
    source = opened(fill(tmp_path, "red_panda/x/a.png", "cat/b.png", "loose.png"))
    assert labels(source) == [("cat/b", "cat"), ("red_panda/x/a", "red panda")]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("c.json", '{"Alarm Clock": "analog clock; digital clock", "Banana": "banana"}'),
        ("c.json", '["banana", "alarm clock"]'),
        ("c.txt", "alarm_clock\nBanana\n"),
    ],
)
def test_only_listed_classes_are_read_by_folder_or_by_name(
    tmp_path: Path, file: str, content: str
) -> None:
    names = {"alarm_clock": "Alarm clock", "banana": "Banana"}
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / file).write_text(content)
    root = fill(tmp_path / "images", "alarm_clock/a.png", "air_freshener/b.png", "banana/c.png")
    source = opened(root, names=str(tmp_path / "names.json"), classes=str(tmp_path / file))
    assert labels(source) == [("alarm_clock/a", "Alarm clock"), ("banana/c", "Banana")]


def test_a_border_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    inside = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    framed = np.full((11, 13, 3), (255, 0, 0), np.uint8)
    framed[2:-2, 2:-2] = inside
    buffer = io.BytesIO()
    Image.fromarray(framed).save(buffer, "PNG")
    (tmp_path / "mug").mkdir()
    (tmp_path / "mug" / "a.png").write_bytes(buffer.getvalue())
    image = opened(tmp_path, border_px=2).read(0).image
    assert np.array_equal(decode(image).permute(1, 2, 0).numpy(), inside)
    with pytest.raises(DataError, match="nothing is left") as caught:
        opened(tmp_path, border_px=6).read(0)
    assert caught.value.reason == "too_small"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "x"}, "1 folders of .* have no name in .*, such as b"),
        ({"a": "crane", "b": "crane"}, "folders a and b of .* are both called 'crane'"),
    ],
)
def test_each_class_needs_a_name_of_its_own(
    tmp_path: Path, names: dict[str, str], message: str
) -> None:
    (tmp_path / "n.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match=message):
        opened(fill(tmp_path / "p", "a/1.png", "b/1.png"), names=str(tmp_path / "n.json"))


def test_a_listed_class_without_images_is_reported(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a\nzebra\n")
    with pytest.raises(DataError, match=r"lists the class 'zebra', of which .* has no image"):
        opened(fill(tmp_path / "p", "a/1.png"), classes=str(tmp_path / "c.txt"))


@pytest.mark.parametrize("content", ["{", "{}", "7"])
def test_a_file_that_names_nothing_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(DataError, match=r"n\.json (is not JSON|names no class)"):
        read_names(str(tmp_path / "n.json"))
