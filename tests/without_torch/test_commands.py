"""Commands and the library in a plain installation, without torch (`make test-runtime`)."""

import base64
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import coca
import coca.core.errors
from coca.core.installation import pip_install
from server_process import serving

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
    words = ("index", str(photos), "--uri", uri)
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


def test_indexed_images_have_captions_and_are_found(uri: str) -> None:
    for color in COLORS:
        words = ("search", f"{color} circle", "--uri", uri, "--json")
        hits = json.loads(run_coca(*words))
        assert Path(hits[0]["path"]).stem == color
        assert all(hit["caption"] for hit in hits)


def test_a_service_searches_and_captions(uri: str, photos: Path, tmp_path: Path) -> None:
    image = base64.b64encode((photos / "red.png").read_bytes()).decode()
    words = ("--uri", uri, "--show-paths")
    with serving(*words, cache=tmp_path) as server:
        found = server.post("/v1/search", {"text": "blue circle", "limit": 2}).json()["hits"]
        assert Path(found[0]["path"]).stem == "blue"
        asked = {"image": f"data:image/png;base64,{image}"}
        assert server.post("/v1/caption", asked).json()["captions"][0]["text"]
        labels = server.post("/v1/classify", {**asked, "labels": ["blue circle", "red circle"]})
        assert labels.json()["labels"][0]["label"] == "red circle"
        vectors = server.post("/v1/embeddings", {"input": ["a circle", asked["image"]]}).json()
        assert len(vectors["data"]) == 2


def test_the_library_indexes_and_searches(photos: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "photos.db")
    coca.index(photos, uri, captions=False)
    with coca.open_store(uri) as store:
        hits = coca.SearchEngine(coca.load(), store.open("pictures")).search("a red circle")
        assert Path(hits[0].path).stem == "red"
        assert len(hits) == len(COLORS)


def test_captions_and_classes_of_files(photos: Path) -> None:
    file = str(photos / "green.png")
    assert json.loads(run_coca("caption", file, "--json"))[0]["captions"][0]["text"]
    labels = ("--labels", "red circle,green circle")
    (found,) = json.loads(run_coca("classify", file, *labels, "--json"))
    assert found["predictions"][0]["label"] == "green circle"


def test_what_needs_torch_fails_in_one_sentence(tmp_path: Path) -> None:
    remedy = f"torch is not installed: {pip_install('torch')}"
    assert remedy in " ".join(run_coca("pretrain", "recipe:emoji", code=1).split())
    (tmp_path / "config.json").touch()
    with pytest.raises(coca.core.errors.MissingExtraError, match=re.escape(remedy)):
        coca.load(tmp_path)
    with pytest.raises(coca.core.errors.MissingExtraError, match=re.escape(remedy)):
        _ = coca.CoCa
