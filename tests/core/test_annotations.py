import json
import os
from pathlib import Path

import pytest

from coca.core.annotations import Sidecars, parse_record, read_sidecars
from coca.core.errors import DataError


@pytest.mark.parametrize(
    ("text", "record", "sidecars"),
    [
        (None, None, Sidecars()),
        ("\n a cat \n\nmore\r\n", None, Sidecars(("a cat", "more"))),
        ("\ufeffa cat", None, Sidecars(("a cat",))),
        ("", {"caption": "a dog", "n": 1}, Sidecars(("a dog",), {"n": 1})),
        ("a cat", {"caption": "a dog"}, Sidecars(("a cat", "a dog"))),
        ("a\nd", {"captions": ["b", "a"], "caption": "c"}, Sidecars(("a", "d", "c", "b"))),
        (None, {"captions": ["a", " b ", ""]}, Sidecars(("a", "b"))),
        (None, {"captions": "a", "caption": ["b", "c"]}, Sidecars(("b", "c", "a"))),
        (None, {"caption": "b", "captions": ["a", "b"]}, Sidecars(("b", "a"))),
        (None, {"caption": None, "captions": None}, Sidecars()),
        (None, {"labels": ["cat"], "tags": "x"}, Sidecars((), {"labels": ["cat"], "tags": "x"})),
        (None, {"metadata": {"n": 1}, "m": 2}, Sidecars((), {"n": 1, "m": 2})),
        (None, {"metadata": {"n": 1, "caption": "a"}, "n": 2}, Sidecars(("a",), {"n": 1})),
        (None, {"n": float("nan")}, Sidecars((), {"n": None})),
    ],
)
def test_captions_come_from_the_text_file_then_from_caption_then_from_captions(
    tmp_path: Path, text: str | None, record: object, sidecars: Sidecars
) -> None:
    if text is not None:
        (tmp_path / "a.b.txt").write_bytes(text.encode())
    if record is not None:
        (tmp_path / "a.b.json").write_text(json.dumps(record))
    assert read_sidecars(tmp_path / "a.b.jpg") == sidecars


@pytest.mark.parametrize(
    ("name", "content", "fault", "reason"),
    [
        ("a.json", b"{", "is not JSON", "bad_record"),
        ("a.json", b"[" * 100_000, "is not JSON", "bad_record"),
        ("a.json", b"[1]", "must be a JSON object", "bad_record"),
        ("a.json", b"\xff\xfe\xfd", "a.json ", "bad_record"),
        ("a.json", b'{"caption": 1.5}', "must be a text or a list of texts", "bad_record"),
        ("a.json", b'{"caption": "x", "captions": {}}', "'captions' of .*a.json", "bad_record"),
        ("a.json", b'{"metadata": 1}', "'metadata' of .* must be an object", "bad_record"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8", "bad_text"),
    ],
)
def test_a_damaged_sidecar_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, fault: str, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=fault) as caught:
        read_sidecars(tmp_path / "a.jpg")
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_a_sidecar_that_is_no_regular_file_or_too_large_is_not_read(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    with (tmp_path / name.replace("a", "b")).open("wb") as file:
        file.truncate((16 << 20) + 1)
    for image, fault in (("a.jpg", "it is a FIFO"), ("b.jpg", "16,777,217 bytes")):
        with pytest.raises(DataError, match=fault) as caught:
            read_sidecars(tmp_path / image)
        assert caught.value.reason == "bad_sidecar"


def test_what_is_no_number_in_json_is_null() -> None:
    text = '{"a": NaN, "b": [-Infinity, 1e999, -1e999], "c": 1e-400, "d": 0.1, "e": 12}'
    expected = {"a": None, "b": [None, None, None], "c": 0.0, "d": 0.1, "e": 12}
    assert parse_record(text, "a.json") == expected
