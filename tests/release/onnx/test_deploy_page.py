"""The page "Deploy" is enough for a second implementation: one in JavaScript has equal results."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from coca.runtime import load
from coca.runtime.predictor import Predictor
from coca.runtime.preprocess import ImageSettings, TextTokens, settings_from, square

pytest.importorskip("onnxscript", reason="needs the extra onnx; run `make test-export`")
pytestmark = [pytest.mark.onnx, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("deploy.mjs")
PACKAGES = ROOT / ".venv-export" / "node_modules"
TEXTS = [
    "a red car",
    "  Two DOGS on the grass  ",
    "",
    "caf\u00e9 [EOS] na\u00efve",
    "it's 2,024 o'clock!",
    "a very long text about many things " * 9,
]
PROMPT = "a drawing of"


def why_not() -> str:
    """Return why the program cannot run here, or an empty text."""
    if shutil.which("node") is None:
        return "the second implementation is JavaScript, and node is not installed"
    if not (PACKAGES / "onnxruntime-node").is_dir():
        return "onnxruntime-node is not installed: `make test-export` installs it where npm is"
    return ""


def draw(kind: str) -> Image.Image:
    """Draw an image whose preparation has one property that the page must describe."""
    generator = np.random.default_rng(0)
    image = Image.new("RGB", (300, 200), "white")
    shapes = ImageDraw.Draw(image)
    match kind:
        case "wide in a wide border":
            shapes.ellipse((60, 90, 221, 131), fill=(200, 30, 30))
        case "high, odd sizes":
            shapes.rectangle((120, 11, 151, 190), fill=(20, 90, 200))
            shapes.ellipse((125, 20, 146, 60), fill=(250, 220, 40))
        case "border of another colour, nearly uniform":
            noise = generator.integers(-6, 7, (200, 300, 3))
            image = Image.fromarray((np.array([90, 160, 90]) + noise).astype(np.uint8))
            ImageDraw.Draw(image).ellipse((180, 100, 260, 180), fill=(250, 250, 20))
        case "transparent":
            image = Image.new("RGBA", (90, 120), (0, 0, 0, 0))
            ImageDraw.Draw(image).ellipse((20, 30, 70, 100), fill=(30, 160, 60, 170))
        case "photo":
            coarse = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8)
            image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        case "uniform":
            image = Image.new("RGB", (50, 70), (120, 40, 200))
        case "small":
            image = Image.fromarray(generator.integers(0, 256, (7, 5, 3)).astype(np.uint8))
    return image


KINDS = (
    "wide in a wide border",
    "high, odd sizes",
    "border of another colour, nearly uniform",
    "transparent",
    "photo",
    "uniform",
    "small",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(len(KINDS))]
    for path, kind in zip(paths, KINDS, strict=True):
        draw(kind).save(path)
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The exported default model; EXPORTED_EVERYDAY is one that exists.

    It is exported in another process, where no types are checked: sizes of its graphs are symbols.
    """
    if reason := why_not():
        pytest.skip(reason)
    if existing := os.environ.get("EXPORTED_EVERYDAY"):
        yield Path(existing)
        return
    out = tmp_path_factory.mktemp("exported") / "everyday"
    words = ["export", "everyday", str(out), "--format", "onnx"]
    subprocess.run([sys.executable, "-m", "coca", *words], check=True)
    yield out
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def found(folder: Path, images: list[Path]) -> dict[str, Any]:
    return run_program(images, folder=str(folder), texts=TEXTS, prompt=PROMPT)


def run_program(images: list[Path], **request: Any) -> Any:
    files = {"packages": str(PACKAGES), "images": [str(path) for path in images]}
    done = subprocess.run(
        ["node", str(PROGRAM)],
        input=json.dumps(files | request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "shortest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("trim", [False, True])
def test_pixels_of_every_method_equal_those_of_python(
    images: list[Path], resize: Any, interpolation: Any, trim: bool
) -> None:
    check_pixels(images, resize, interpolation, trim)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_pixels_of_a_strip_above_the_limit_of_a_square_equal_those_of_python(
    tmp_path: Path,
) -> None:
    strip = Image.new("RGB", (7_301, 12), "white")
    noise = np.random.default_rng(0).integers(0, 256, (2, 60, 3)).astype(np.uint8)
    strip.paste(Image.fromarray(noise).resize((7_200, 9), Image.Resampling.BICUBIC), (50, 2))
    strip.save(tmp_path / "strip.png")
    check_pixels([tmp_path / "strip.png"], "squash", "bicubic", True)


def check_pixels(images: list[Path], resize: Any, interpolation: Any, trim: bool) -> None:
    settings = ImageSettings(
        image_size=48,
        resize=resize,
        trim=trim,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation=interpolation,
        reduced=False,
    )
    found = np.array(run_program(images, settings={"image": asdict(settings)}))
    expected = np.array([square(path, settings).ravel() for path in images], int)
    # Pillow's weights have 22 bits, so a value near a half may be rounded to the other side.
    assert np.abs(found - expected).max() <= 1


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    loaded = load(folder, threads=1)
    assert isinstance(loaded, Predictor)
    return loaded


def test_image_vectors_equal_those_of_python(
    found: dict[str, Any], predictor: Predictor, images: list[Path]
) -> None:
    expected = predictor.embed_images(images)
    cosines = (np.array(found["images"]) * expected).sum(axis=1)
    assert dict(zip(KINDS, cosines, strict=True)) == dict.fromkeys(
        KINDS, pytest.approx(1, abs=1e-3)
    )


def test_token_ids_and_text_vectors_equal_those_of_python(
    found: dict[str, Any], folder: Path, predictor: Predictor
) -> None:
    where = folder / "preprocess.json"
    _, layout, _ = settings_from(json.loads(where.read_text(encoding="utf-8")), where)
    assert layout is not None
    expected = TextTokens(folder / "tokenizer.json", layout).encode(TEXTS)
    longest = expected.shape[1]
    assert [
        ids + [layout.pad_id] * (longest - len(ids)) for ids in found["ids"]
    ] == expected.tolist()
    cosines = (np.array(found["texts"]) * predictor.embed_texts(TEXTS)).sum(axis=1)
    assert cosines.min() >= 0.999


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("greedy", {"num_beams": 1}),
        ("beams", {"num_beams": 4}),
        ("prompted", {"num_beams": 4, "prompt": PROMPT}),
    ],
)
def test_captions_equal_those_of_python(
    found: dict[str, Any],
    predictor: Predictor,
    images: list[Path],
    name: str,
    options: dict[str, Any],
) -> None:
    expected = predictor.caption(images, **options)
    assert [one["text"] for one in found[name]] == [caption.text for caption in expected]
    scores = [one["score"] for one in found[name]]
    assert scores == pytest.approx([caption.score for caption in expected], abs=0.02)


def test_scores_of_texts_equal_those_of_python(
    found: dict[str, Any], predictor: Predictor, images: list[Path]
) -> None:
    expected = predictor.score(images, TEXTS)
    np.testing.assert_allclose(np.array(found["scores"]), expected, rtol=2e-3, atol=0.05)
