"""Commands on an exported model, in an environment without torch (`make test-runtime`)."""

import base64
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from server_process import serving

EXPORTED = Path(__file__).parents[2] / ".venv-runtime" / "exported"
COLORS = ("red", "green", "blue", "yellow")

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is not None,
        reason="torch is installed here; `make test-runtime` runs this without it",
    ),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A circle of each color."""
    folder = tmp_path_factory.mktemp("photos")
    for color in COLORS:
        image = Image.new("RGB", (128, 128), "white")
        ImageDraw.Draw(image).ellipse((24, 24, 104, 104), fill=color)
        image.save(folder / f"{color}.png")
    return folder


@pytest.fixture(scope="module")
def uri(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection that `coca index` filled."""
    uri = str(tmp_path_factory.mktemp("collection") / "images.db")
    words = ("index", str(photos), "--uri", uri, "--model", str(EXPORTED))
    assert json.loads(run_coca(*words, "--json"))["count"] == len(COLORS)
    return uri


def run_coca(*words: str, code: int = 0) -> str:
    """Run a command; return its stdout, or its stderr if it fails as expected."""
    done = subprocess.run([sys.executable, "-m", "coca", *words], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.parametrize("module", ["torch", "torchvision", "einops"])
def test_torch_cannot_be_imported(module: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module)


def test_the_runtime_embeds_captions_and_scores(photos: Path) -> None:
    import coca.runtime

    predictor = coca.runtime.load(EXPORTED)
    images = [photos / f"{color}.png" for color in COLORS]
    texts = [f"{color} circle" for color in COLORS]
    cosines = predictor.embed_images(images) @ predictor.embed_texts(texts).T
    assert cosines.argmax(axis=1).tolist() == [*range(len(COLORS))]
    assert all(caption.text for caption in predictor.caption(images))
    assert np.isfinite(predictor.score(images, texts)).all()


def test_indexed_images_have_captions_and_are_found(uri: str) -> None:
    for color in COLORS:
        words = ("search", f"{color} circle", "--uri", uri, "--json")
        hits = json.loads(run_coca(*words))
        assert Path(hits[0]["path"]).stem == color
        assert all(hit["caption"] for hit in hits)


def test_a_service_searches_and_captions(uri: str, photos: Path, tmp_path: Path) -> None:
    image = base64.b64encode((photos / "red.png").read_bytes()).decode()
    words = ("--uri", uri, "--model", str(EXPORTED), "--show-paths")
    with serving(*words, cache=tmp_path) as server:
        found = server.post("/v1/search", {"text": "blue circle", "limit": 2}).json()["hits"]
        assert Path(found[0]["path"]).stem == "blue"
        asked = {"image": f"data:image/png;base64,{image}"}
        assert server.post("/v1/caption", asked).json()["captions"][0]["text"]
        labels = server.post("/v1/classify", {**asked, "labels": ["blue circle", "red circle"]})
        assert labels.json()["labels"][0]["label"] == "red circle"
        vectors = server.post("/v1/embeddings", {"input": ["a circle", asked["image"]]}).json()
        assert len(vectors["data"]) == 2


def test_a_command_that_needs_torch_fails_in_one_sentence(photos: Path) -> None:
    error = " ".join(run_coca("caption", str(photos / "red.png"), code=1).split())
    assert "torch is needed for this: pip install torch torchvision" in error
    assert "coca export --format onnx" in error
