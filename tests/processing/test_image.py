import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps

from coca.core.errors import ConfigError
from coca.processing.image import ImageConfig, ImageTransform, decode, expect_many

Encode = Callable[..., bytes]

expect_many()


def pixels_of(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def by_pillow(data: bytes) -> NDArray[Any]:
    return pixels_of(Image.open(io.BytesIO(data)))


# What is read


@pytest.mark.parametrize(
    "options",
    [
        *({"quality": q, "subsampling": s} for q in (5, 50, 75, 90, 95, 100) for s in (0, 1, 2)),
        *({"progressive": True}, {"optimize": True}, {"keep_rgb": True}),
        {"restart_marker_rows": 1},
    ],
)
def test_a_jpeg_decodes_to_the_pixels_of_pillow(
    scene: Image.Image, encode: Encode, options: dict[str, Any]
) -> None:
    data = encode(scene, "JPEG", **options)
    assert np.array_equal(decode(data), by_pillow(data))


def test_the_first_image_of_a_multi_image_jpeg_is_read(scene: Image.Image, encode: Encode) -> None:
    data = encode(scene, "MPO", save_all=True, append_images=[ImageOps.invert(scene)])
    assert np.array_equal(decode(data), by_pillow(data))


def test_a_jpeg_that_the_fast_decoder_refuses_is_left_to_pillow(
    scene: Image.Image, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    data = encode(scene, "JPEG")
    monkeypatch.setattr("torchvision.io.decode_jpeg", refuse)
    assert np.array_equal(decode(data), by_pillow(data))


def test_a_jpeg_decodes_the_same_whether_or_not_many_are_expected(
    scene: Image.Image, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(scene, "JPEG")
    monkeypatch.delitem(sys.modules, "torchvision.io", raising=False)
    alone = decode(data)
    assert "torchvision.io" not in sys.modules
    expect_many()
    assert "torchvision.io" in sys.modules
    assert torch.equal(decode(data), alone)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_lossless_formats_give_the_pixels_that_went_in(
    scene: Image.Image, encode: Encode, form: str, mode: str
) -> None:
    image = scene.convert(mode)
    assert np.array_equal(decode(encode(image, form)), pixels_of(image))


def test_every_kind_of_source_gives_the_same_pixels(
    scene: Image.Image, encode: Encode, tmp_path: Path
) -> None:
    data = encode(scene, "PNG")
    (tmp_path / "scene.png").write_bytes(data)
    array = np.asarray(scene)
    sources: list[Any] = [data, tmp_path / "scene.png", str(tmp_path / "scene.png"), scene, array]
    for source in sources:
        assert np.array_equal(decode(source), pixels_of(scene))


def test_a_given_pil_image_is_left_as_it_was(scene: Image.Image) -> None:
    scene.getexif()[274] = 6
    before = (scene.size, scene.tobytes(), dict(scene.getexif()))
    decode(scene)
    assert (scene.size, scene.tobytes(), dict(scene.getexif())) == before


def test_arrays_may_be_gray_or_have_a_channel_of_transparency() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for array in (gray, gray[:, :, None]):
        assert np.array_equal(decode(array), np.stack([gray] * 3))
    clear = np.zeros((3, 4, 4), np.uint8)
    assert np.array_equal(decode(clear), np.full((3, 3, 4), 255))
    assert np.array_equal(decode(gray[::-1, ::2]), np.stack([gray[::-1, ::2]] * 3))


# What the stored numbers mean

# How the spec (EXIF 2.3, tag 274) stores an upright array (H, W, 3) under each orientation.
STORED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def stored(scene: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[274] = orientation
    return Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(scene)))), exif


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_is_turned_upright(
    scene: Image.Image, encode: Encode, form: str, orientation: int
) -> None:
    turned, exif = stored(scene, orientation)
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(decode(encode(turned, form, exif=exif, **options)), pixels_of(scene))


@pytest.mark.parametrize("orientation", STORED)
def test_an_avif_is_read_and_turned_upright(
    scene: Image.Image, encode: Encode, orientation: int
) -> None:
    turned, exif = stored(scene, orientation)
    avif = encode(turned, "AVIF", exif=exif, quality=100, subsampling="4:4:4")
    apart = np.abs(np.asarray(decode(avif), int) - pixels_of(scene))
    assert apart.max() <= 12
    assert apart.mean() < 1


@pytest.mark.parametrize("orientation", [*STORED, 0, 9, 60_000])
def test_a_jpeg_is_turned_as_pillow_turns_it(
    scene: Image.Image, encode: Encode, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(scene, "JPEG", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data), pixels_of(turned))


def test_damaged_exif_leaves_the_image_readable(scene: Image.Image, encode: Encode) -> None:
    expected = decode(encode(scene, "JPEG"))
    for exif in (b"Exif\0\0rubbish", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 8):
        assert torch.equal(decode(encode(scene, "JPEG", exif=exif)), expected)


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "RGBA"), ("PNG", "LA"), ("TIFF", "RGBA"), ("TIFF", "LA"), ("WEBP", "RGBA")],
)
def test_transparency_is_blended_with_white(encode: Encode, form: str, mode: str) -> None:
    image = Image.new(mode, (3, 1), 0)
    color = (100, 100, 100) if mode == "RGBA" else (100,)
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*color, alpha))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode(encode(image, form, **options))
    # 100 * 128/255 + 255 * 127/255 = 177.2
    assert pixels[:, 0].tolist() == [[255, 177, 100]] * 3


def test_a_palette_may_have_a_clear_colour_or_an_alpha_for_each(encode: Encode) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    upright = [[255, 40, 70], [255, 50, 80], [255, 60, 90]]
    for form in ("GIF", "PNG"):
        assert decode(encode(image, form, transparency=0))[:, 0].tolist() == upright
    alphas = encode(image, "PNG", transparency=bytes([0, 255, 0]))
    assert decode(alphas)[0, 0].tolist() == [255, 40, 255]


def test_a_cmyk_jpeg_keeps_its_colours(encode: Encode) -> None:
    # Adobe stores CMYK inverted; read plainly, red would become a dark cyan.
    image = Image.new("RGB", (16, 16), (220, 30, 40))
    data = encode(image.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    middle = decode(data)[:, 8, 8].tolist()
    assert middle == pytest.approx([220, 30, 40], abs=4)


@pytest.mark.parametrize(("form", "kind"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bit_gray_is_scaled_not_clipped(encode: Encode, form: str, kind: str) -> None:
    values = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], dtype=kind)
    mode = "I;16B" if kind == ">u2" else "I;16"
    image = Image.frombytes(mode, (6, 1), values.tobytes())
    assert decode(encode(image, form))[0, 0].tolist() == [0, 0, 1, 0x12, 0x80, 0xFF]


def test_16_bit_colour_and_gray_are_scaled_alike(png: Callable[..., bytes]) -> None:
    values = np.array([0x0012, 0x12FF, 0xFFFF], dtype=">u2")
    gray = png([values], depth=16, color=0, size=(3, 1))
    color = png([np.repeat(values, 3)], depth=16, color=2, size=(3, 1))
    assert torch.equal(decode(gray), decode(color))
    assert decode(color)[0, 0].tolist() == [0x00, 0x12, 0xFF]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(encode: Encode, form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
    assert decode(data)[:, 4, 4].tolist() == [255, 0, 0]


# The model's input


def config(**fields: Any) -> ImageConfig:
    return ImageConfig(**{"image_size": 24, **fields})


def test_the_transform_follows_pillow_to_one_grey_level(scene: Image.Image) -> None:
    transform = ImageTransform(config())
    expected = pixels_of(scene.resize((24, 24), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(transform.resize(decode(scene)).numpy() - expected)
    assert difference.max() <= 1


def test_white_black_and_the_mean_are_normalized_as_configured() -> None:
    transform = ImageTransform(config(mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.1)))
    black = transform(torch.zeros(3, 5, 9, dtype=torch.uint8))
    white = transform(torch.full((3, 5, 9), 255, dtype=torch.uint8))
    assert black.shape == (3, 24, 24)
    assert black.dtype == torch.float32
    assert torch.allclose(black[:, 0, 0], torch.tensor([-1.0, -2.0, -2.0]))
    assert torch.allclose(white[:, 0, 0], torch.tensor([1.0, 3.0, 8.0]))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_an_image_of_the_right_size_is_not_resampled(
    scene: Image.Image, interpolation: str
) -> None:
    square = decode(scene)[:, :24, :24]
    for resize in ("squash", "crop", "pad"):
        transform = ImageTransform(config(resize=resize, interpolation=interpolation))
        assert torch.equal(transform.resize(square), square)


def test_padding_is_white_and_centred() -> None:
    pixels = torch.zeros(3, 10, 40, dtype=torch.uint8)
    padded = ImageTransform(config(resize="pad")).resize(pixels)
    assert padded.shape == (3, 24, 24)
    assert (padded[:, 9:15] == 0).all()
    assert (padded[:, :9] == 255).all()
    assert (padded[:, 15:] == 255).all()
    thin = ImageTransform(config(resize="pad")).resize(pixels[:, :1].transpose(1, 2))
    assert (thin[0] == 0).sum() == 24


def test_cropping_first_equals_shrinking_first(scene: Image.Image) -> None:
    pixels = decode(scene)[:, :36, :48]
    cropped = ImageTransform(config(resize="crop")).resize(pixels).int()
    shrunk = F.interpolate(pixels[None], (24, 32), mode="bicubic", antialias=True)[0, :, :, 4:28]
    # The columns at the cut see other neighbours.
    assert (cropped - shrunk.int())[:, :, 3:-3].abs().max() <= 1


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (23, 25)])
def test_any_shape_becomes_the_square(resize: str, shape: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    values = ImageTransform(config(resize=resize))(pixels)
    assert values.shape == (3, 24, 24)
    assert values.isfinite().all()


@pytest.mark.parametrize("fields", [{"image_size": 0}, {"std": (0.5, 0.0, 0.5)}])
def test_an_impossible_config_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        config(**fields)
