import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coca.core.errors import DataError
from coca.processing.image import decode
from coca.processing.image_file import MAX_SIDE_PX

Encode = Callable[..., bytes]


def refusal(source: Any, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        decode(source, **options)
    return caught.value


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (b"\0", "not_an_image"),
        (b"<html><body>404 Not Found</body></html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not_an_image"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 4, 3), np.float32), "unsupported"),
        (np.zeros((3, 4, 4, 3), np.uint8), "unsupported"),
        (np.zeros((3, 640, 480), np.uint8), "unsupported"),
        (Image.new("I", (2, 2)), "unsupported"),
        (Image.new("F", (2, 2)), "unsupported"),
        (Image.new("LAB", (2, 2)), "unsupported"),
        (Image.new("RGB", (0, 5)), "empty"),
        ("nowhere.png", "missing"),
        ("nul\0byte.png", "missing"),
        ("x" * 5000, "missing"),
        ("https://example.org/picture.png", "missing"),
    ],
)
def test_an_unusable_image_is_an_error_with_its_reason(source: Any, reason: str) -> None:
    error = refusal(source)
    assert error.reason == reason
    assert len(str(error)) < 500


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path).reason == "missing"
    assert refusal(tmp_path / "pipe").reason == "missing"


def test_the_message_names_the_file_even_if_its_name_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xe9tude.jpg")
    path.write_bytes(b"rubbish")
    str(refusal(path)).encode()
    assert "tude.jpg" in str(refusal(path))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "avif": ("AVIF", {}),
    "tiff": ("TIFF", {}),
    "packed tiff": ("TIFF", {"compression": "tiff_lzw"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cut_file_gives_the_whole_image_or_an_error_but_never_a_part(
    scene: Image.Image, encode: Encode, case: str
) -> None:
    form, options = CASES[case]
    data = encode(scene, form, **options)
    whole = decode(data)
    refused = 0
    for length in range(0, len(data), 7):
        try:
            assert torch.equal(decode(data[:length]), whole)
        except DataError:
            refused += 1
    assert refused >= len(data) // 7 - 4
    half = refusal(data[: len(data) // 2])
    assert half.reason in {"truncated", "corrupt", "not_an_image"}
    if case in {"jpeg", "progressive", "png", "bmp", "tiff"}:
        # It is cut in its pixels.
        assert refusal(data[: len(data) * 9 // 10]).reason == "truncated"


def test_2000_damaged_images_raise_nothing_but_data_errors(
    scene: Image.Image, encode: Encode
) -> None:
    random = np.random.default_rng(7)
    originals = [encode(scene, form, **options) for form, options in CASES.values()]
    refused = 0
    for round_ in range(2000):
        data = bytearray(originals[round_ % len(originals)])
        for _ in range(random.integers(1, 12)):
            # Half of the damage strikes the header, where it does most.
            limit = len(data) if random.random() < 0.5 else min(64, len(data))
            at, kind = int(random.integers(limit)), random.integers(4)
            if kind == 0:
                data[at] = random.integers(256)
            elif kind == 1:
                data[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff"])
            elif kind == 2:
                del data[at : at + int(random.integers(1, 40))]
            else:
                data[at:at] = data[: int(random.integers(1, 40))]
            if not data:
                break
        try:
            pixels = decode(bytes(data))
            assert pixels.shape[0] == 3
            assert pixels.dtype == torch.uint8
        except DataError:
            refused += 1
    assert 200 < refused < 1990


def test_the_size_is_checked_before_anything_is_decoded(png: Callable[..., bytes]) -> None:
    bomb = png([], depth=8, color=2, size=(15_000, 15_000))
    error = refusal(bomb)
    assert error.reason == "too_large"
    assert "15,000 x 15,000" in str(error)
    assert refusal(png([], depth=8, color=2, size=(MAX_SIDE_PX + 1, 1))).reason == "too_large"


def test_the_limit_is_inclusive_and_holds_for_every_source(
    scene: Image.Image, encode: Encode
) -> None:
    for source in (scene, np.asarray(scene), encode(scene, "PNG"), encode(scene, "JPEG")):
        decode(source, max_pixels=37 * 53)
        assert refusal(source, max_pixels=37 * 53 - 1).reason == "too_large"


BOMBS = """
import io, resource, struct, sys, zlib
from PIL import Image
from coca.core.errors import DataError
from coca.processing.image import decode

def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

def png(side):
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows)

def saved(form, side, **options):
    stream = io.BytesIO()
    Image.new("1" if form in ("BMP", "TIFF") else "L", (16, 16)).save(stream, form, **options)
    return bytearray(stream.getvalue())

decode(bytes(saved("JPEG", 16)))
bombs = [png(15_000), png(20_000)]
jpeg = saved("JPEG", 16)
at = jpeg.index(b"\\xff\\xc0") + 5
jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
gif = saved("GIF", 16)
gif[6:10] = struct.pack("<HH", 65_000, 65_000)
bmp = saved("BMP", 16)
bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
canvas = struct.pack("<II", 0x10, 16_383)[:7] + struct.pack("<I", 16_383)[:3]
webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas
frame = bytes(saved("GIF", 16))
start = frame.index(b",")
many = frame[:start] + frame[start:-1] * 100_000 + b";"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in (*bombs, jpeg, gif, bmp, webp):
    try:
        decode(bytes(data))
        sys.exit("a bomb was decoded")
    except DataError as error:
        assert error.reason in ("too_large", "corrupt"), error
assert decode(many).shape == (3, 16, 16)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_a_bomb_takes_no_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMBS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100  # MiB
