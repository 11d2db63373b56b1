import io
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from PIL import Image

from coca.core.errors import DataError
from coca.processing.image import ImageConfig, ImageTransform, decode
from coca.processing.preprocess import MAX_SIDE, square, unresized
from coca.search.ingest.photo_metadata import read_header
from coca.server.errors import ServiceError
from coca.server.images.decoding.decoder import MAX_LARGE, ProcessDecoder
from coca.server.settings import ServerSettings
from raw_photo import PREVIEW, raw_photo
from server_process import child_processes
from tiny_data import image_bytes

TRANSFORM = ImageTransform(ImageConfig(image_size=16))
SETTINGS = TRANSFORM.config.settings(resampler="torch")
MAX_PIXELS = 4_000_000


@pytest.fixture(scope="module")
def decoder() -> Iterator[ProcessDecoder]:
    opened = ProcessDecoder(SETTINGS, max_pixels=MAX_PIXELS, timeout_s=30.0, processes=1)
    yield opened
    opened.close()


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    numbers = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(numbers).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def decoders() -> set[int]:
    """The running decoder processes of this process."""
    return child_processes(os.getpid(), "coca.server.images.decoding")


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2024:05:31 18:30:00"
    return exif


ENCODED = {
    "jpeg": encoded("JPEG"),
    "jpeg turned": encoded("JPEG", exif=turned()),
    "jpeg gray": encoded("JPEG", "L"),
    "jpeg cmyk": encoded("JPEG", "CMYK"),
    "jpeg progressive": encoded("JPEG", progressive=True),
    "png": encoded("PNG"),
    "png transparent": encoded("PNG", "RGBA", exif=turned()),
    "png palette": encoded("PNG", "P"),
    "gif": encoded("GIF", "P"),
    "webp": encoded("WEBP"),
    "webp transparent": encoded("WEBP", "RGBA", exif=turned()),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF", compression="tiff_lzw", exif=turned()),
    "avif": encoded("AVIF"),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_a_process_decodes_as_the_library_does(decoder: ProcessDecoder, kind: str) -> None:
    data = ENCODED[kind]
    found = decoder.decode(data)
    expected = TRANSFORM.square(decode(data)).permute(1, 2, 0).numpy()
    assert np.array_equal(found.square, expected)
    header = read_header(data)
    assert (found.width, found.height) == (header.width, header.height)
    assert found.annotation == header.annotation


@pytest.mark.parametrize("size", [(40, 30), (3000, 20), (1, 1)])
def test_an_image_of_any_shape_is_shrunk_only_above_the_limit(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    opened = ProcessDecoder(unresized(), max_pixels=MAX_PIXELS, timeout_s=30.0, processes=1)
    try:
        found = opened.decode(stream.getvalue())
    finally:
        opened.close()
    assert np.array_equal(found.square, square(stream.getvalue(), unresized()).transpose(1, 2, 0))
    assert max(found.square.shape) == min(MAX_SIDE, max(*size, 3))
    assert max(size) > MAX_SIDE or np.array_equal(found.square, np.asarray(image))


def test_heif_is_decoded_where_it_is_installed(decoder: ProcessDecoder) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    stream = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(stream)
    found = decoder.decode(stream.getvalue())
    expected = TRANSFORM.square(decode(stream.getvalue())).permute(1, 2, 0).numpy()
    assert np.array_equal(found.square, expected)


def test_the_preview_of_a_raw_photo_is_decoded_where_that_is_installed(
    decoder: ProcessDecoder,
) -> None:
    pytest.importorskip("rawpy", reason="the extra raw is not installed")
    data = raw_photo(6)
    found = decoder.decode(data)
    expected = TRANSFORM.square(decode(data)).permute(1, 2, 0).numpy()
    assert np.array_equal(found.square, expected)
    assert (found.width, found.height) == PREVIEW[::-1]
    assert found.annotation.metadata["camera"] == "NIKON Z 6"
    small = Image.open(io.BytesIO(decoder.thumbnail(data, 256)))
    assert max(small.size) == small.height == 256
    for damaged in (data[:600], raw_photo(preview=False)):
        with pytest.raises(DataError):
            decoder.decode(damaged)


def test_a_thumbnail_is_a_small_jpeg(decoder: ProcessDecoder) -> None:
    with Image.open(io.BytesIO(decoder.thumbnail(ENCODED["png transparent"], 20))) as small:
        assert (small.format, small.size) == ("JPEG", (15, 20))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (ENCODED["jpeg"][:300], "truncated"),
        (encoded("PNG", "RGBA")[:-40], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not_an_image"),
    ],
    ids=["empty", "svg", "jpeg", "png", "postscript"],
)
def test_errors_are_those_of_the_library(decoder: ProcessDecoder, data: bytes, reason: str) -> None:
    with pytest.raises(DataError) as expected:
        decode(data)
    with pytest.raises(DataError) as found:
        decoder.decode(data)
    assert (found.value.reason, str(found.value)) == (reason, str(expected.value))


def test_the_pixel_limit_is_checked_before_decoding(decoder: ProcessDecoder) -> None:
    stream = io.BytesIO()
    Image.new("1", (4_001, 1_000)).save(stream, "PNG")
    for use in (decoder.decode, lambda data: decoder.thumbnail(data, 128)):
        with pytest.raises(DataError, match="4,001 x 1,000 pixels") as caught:
            use(stream.getvalue())
        assert caught.value.reason == "too_large"


@pytest.mark.slow
def test_a_photo_of_81_megapixels_is_decoded_within_the_default_limits() -> None:
    limits = ServerSettings()
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.radial_gradient("L").resize((10_400, 7_800)).convert("RGB").save(jpeg, "JPEG")
    Image.new("1", (10_400, 7_800)).save(png, "PNG")
    with closing(
        ProcessDecoder(
            SETTINGS, max_pixels=limits.max_pixels, timeout_s=limits.decode_timeout_s, processes=2
        )
    ) as opened:
        found = opened.decode(jpeg.getvalue())
        small = Image.open(io.BytesIO(opened.thumbnail(jpeg.getvalue(), 512)))
        with pytest.raises(DataError, match=r"are 81\.2 megapixels; the limit for PNG is 50"):
            opened.decode(png.getvalue())
    assert (found.width, found.height) == (10_400, 7_800)
    expected = TRANSFORM.square(decode(jpeg.getvalue())).permute(1, 2, 0).numpy()
    assert np.array_equal(found.square, expected)
    assert small.size == (512, 384)


@pytest.mark.slow
def test_large_images_are_decoded_one_after_the_other() -> None:
    opened = ProcessDecoder(SETTINGS, max_pixels=MAX_PIXELS, timeout_s=30.0, processes=2)
    stream = io.BytesIO()
    Image.new("RGB", (2_000, 1_500), "red").save(stream, "PNG")
    found: list[object] = []

    def decode() -> None:
        try:
            found.append(opened.decode(stream.getvalue()).width)
        except ServiceError as error:
            found.append(error.status)

    threads = [threading.Thread(target=decode) for _ in range(MAX_LARGE + 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == MAX_LARGE + 4
    assert found.count(2_000) >= MAX_LARGE
    assert set(found) <= {2_000, 503}
    assert opened.decode(stream.getvalue()).width == 2_000
    opened.close()


def test_more_memory_than_the_limit_is_too_large(decoder: ProcessDecoder) -> None:
    decoder.decode(image_bytes(1))
    (pid,) = decoders()
    status = Path(f"/proc/{pid}/status").read_text()
    (used,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize"))
    few = (used << 10) + (4 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (few, few))
    stream = io.BytesIO()
    Image.new("RGBA", (2_000, 2_000)).save(stream, "PNG")
    with pytest.raises(DataError, match="memory") as caught:
        decoder.decode(stream.getvalue())
    assert caught.value.reason == "too_large"
    os.kill(pid, signal.SIGKILL)
    assert decoder.decode(stream.getvalue()).width == 2_000


def test_a_process_that_is_killed_is_replaced(decoder: ProcessDecoder) -> None:
    decoder.decode(image_bytes(1))
    (pid,) = decoders()
    os.kill(pid, signal.SIGKILL)
    assert decoder.decode(image_bytes(1)).width == 12
    (other,) = decoders()
    assert other != pid


def test_an_image_that_hangs_is_an_error_and_the_next_one_is_decoded() -> None:
    others = decoders()
    decoder = ProcessDecoder(SETTINGS, max_pixels=MAX_PIXELS, timeout_s=3.0, processes=1)
    decoder.decode(image_bytes(1))
    (pid,) = decoders() - others
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DataError, match="took longer than 3 seconds") as caught:
        decoder.decode(image_bytes(1))
    assert caught.value.reason == "too_slow"
    assert decoder.decode(image_bytes(1)).width == 12
    decoder.close()


def test_a_process_sees_no_secrets_and_opens_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    others = decoders()
    monkeypatch.setenv("COCA_API_KEYS", "a-secret-key")
    opened = ProcessDecoder(SETTINGS, max_pixels=MAX_PIXELS, timeout_s=30.0, processes=1)
    opened.decode(image_bytes(1))
    (pid,) = decoders() - others
    assert b"a-secret-key" not in Path(f"/proc/{pid}/environ").read_bytes()
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (files,) = (line.split()[3:5] for line in limits if line.startswith("Max open files"))
    assert files == ["0", "0"]
    opened.close()
    assert decoders() == others
