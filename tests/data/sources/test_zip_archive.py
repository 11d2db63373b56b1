import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.zip_archive import Archive, ZipConfig
from coca.data.storage.storage import Storage
from range_server import Serve
from tiny_data import image_bytes

ROWS: list[dict[str, Any]] = [
    {"image": "pics/0.png", "label": "car", "split": "train"},
    {"image": "pics/1.png", "question": "what is it", "answers": ["cat", "a cat"], "split": "val"},
    {"images": ["pics/0.png", "pics/1.png"], "sentence": "both", "label": "true", "split": "val"},
]


def write_zip(path: Path, rows: list[dict[str, Any]] = ROWS, *, method: int = 8) -> Path:
    with zipfile.ZipFile(path, "w", compression=method) as file:
        file.writestr("meta.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        for number in range(2):
            file.writestr(f"pics/{number}.png", image_bytes(number))
    return path


def open_zip(path: Path | str, **settings: Any) -> Source:
    return open_source(ZipConfig(path=str(path), **settings))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_rows_become_samples_with_their_images_and_texts(tmp_path: Path, method: int) -> None:
    source = open_zip(write_zip(tmp_path / "a.zip", method=method))
    one, asked, pair = (source.read(row) for row in range(3))
    assert (one.key, one.image, one.labels) == ("pics/0.png", image_bytes(0), ("car",))
    assert one.metadata == {"split": "train"}
    assert (asked.text, asked.answers) == ("what is it", ("cat", "a cat"))
    assert (pair.text, pair.labels) == ("both", ("true",))
    assert pair.images == (image_bytes(0), image_bytes(1))
    assert pickle.loads(pickle.dumps(source)).read(2) == pair


def test_texts_are_those_of_the_sample_without_its_images(tmp_path: Path) -> None:
    source = open_zip(write_zip(tmp_path / "a.zip"))
    words, sample = source.read_metadata(2), source.read(2)
    assert words.images == (b"",)
    assert (words.key, words.text, words.labels) == (sample.key, sample.text, sample.labels)


def test_a_damaged_row_is_read_as_an_error_for_any_choice(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("meta.jsonl", json.dumps(ROWS[0]) + "\n{broken\n")
        file.writestr("pics/0.png", image_bytes(0))
    source = open_zip(path, where={"split": "train"})
    assert len(source) == 2
    with pytest.raises(DataError, match="row 1 of"):
        source.read(1)


def test_a_zip_is_read_by_ranges_behind_a_url(tmp_path: Path, serve: Serve) -> None:
    write_zip(tmp_path / "a.zip")
    server = serve(tmp_path)
    assert open_zip(f"{server.url}/a.zip").read(1).image == image_bytes(1)


def test_the_same_bytes_come_out_as_by_the_standard_library(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    contents = {"empty": b"", "ä/long name.bin": bytes(range(256)) * 99, "last": b"x"}
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            # An own header that is longer than the directory states.
            entry = zipfile.ZipInfo(name)
            entry.extra = b"\x99\x99" + (600).to_bytes(2, "little") + bytes(600)
            file.writestr(entry, content)
    archive = Archive(str(path), Storage())
    assert {name: archive.read(name) for name in archive.names} == contents


def test_a_file_that_inflates_to_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.png", bytes(50 << 20))
    archive = Archive(str(path), Storage())
    assert len(archive.read("bomb.png")) == 50 << 20
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.png in .* has 52,428,800 bytes, and at") as caught:
        archive.read("bomb.png", max_bytes=(50 << 20) - 1)
    assert caught.value.reason == "too_large"
    # The same, where the directory promises less than there is.
    content = path.read_bytes()
    path.write_bytes(content.replace((50 << 20).to_bytes(4, "little"), (99).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"bomb\.png in .* is damaged"):
        Archive(str(path), Storage()).read("bomb.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize("promised", [1, 200, (1 << 32) - 2])
def test_a_file_that_is_shorter_or_longer_than_promised_is_damaged(
    tmp_path: Path, promised: int
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(199))
    content = path.read_bytes()
    path.write_bytes(content.replace((199).to_bytes(4, "little"), promised.to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"a\.png in .*(is damaged|has 4,294,967,294 bytes)"):
        Archive(str(path), Storage()).read("a.png")


def test_an_encrypted_file_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pics/1\.png in .* is encrypted"):
        open_zip(path).read(1)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(image_bytes(1)) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pics/1.png in .* is damaged"):
        open_zip(path).read(1)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [((), "has no table"), (("a.jsonl", "b.csv"), "several tables; set table to one of a.jsonl")],
)
def test_a_zip_without_one_table_is_refused(
    tmp_path: Path, names: tuple[str, ...], complaint: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in (*names, "pics/0.png"):
            file.writestr(name, b"")
    with pytest.raises((ConfigError, DataError), match=complaint):
        open_zip(tmp_path / "a.zip")


def test_what_is_no_zip_or_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"a.zip is not a whole zip"):
        open_zip(tmp_path / "a.zip")
    with pytest.raises(DataError, match=r"b.zip"):
        open_zip(tmp_path / "b.zip")


def test_an_image_that_the_zip_lacks_is_named(tmp_path: Path) -> None:
    source = open_zip(write_zip(tmp_path / "a.zip", [{"image": "pics/9.png"}]))
    with pytest.raises(DataError, match=r"has no pics/9.png"):
        source.read(0)
