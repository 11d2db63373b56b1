"""Exported models of both architectures, compared with torch, and used without it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coca
from coca.core.errors import ModelError
from coca.runtime import load
from tiny_model import write_model
from tiny_weights import write_open_clip

ROOT = Path(__file__).parent.parent.parent.parent
WITHOUT_TORCH = """
import json, sys
import coca.runtime
predictor = coca.runtime.load(sys.argv[1])
images, texts = sys.argv[2:], ["a cat", "the car on the road"]
result = {
    "images": predictor.embed_images(images).tolist(),
    "texts": predictor.embed_texts(texts).tolist(),
    "captions": [list(caption.token_ids) for caption in predictor.caption(images)],
    "scores": predictor.score(images, texts).tolist(),
    "torch": "torch" in sys.modules,
}
print(json.dumps(result))
"""

pytest.importorskip("onnxruntime", reason="needs the extra onnx; run `make test-export`")
pytestmark = [pytest.mark.onnx, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=["coca", "openclip"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: Path
) -> tuple[str, Path]:
    """A model and its export; in another process, where no shapes are checked."""
    place = tmp_path_factory.mktemp("exported")
    write = write_model if request.param == "coca" else write_open_clip
    model = str(write(place / "model"))
    command("export", model, str(place / "onnx"), "--format", "onnx", "--images", str(images))
    return model, place / "onnx"


def command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "coca", *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_results_equal_those_of_torch_without_importing_it(
    exported: tuple[str, Path], images: Path
) -> None:
    model, folder = exported
    paths = [str(path) for path in sorted(images.iterdir())]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder), *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert not found["torch"]
    predictor = coca.load(model, device="cpu")
    texts = ["a cat", "the car on the road"]
    np.testing.assert_allclose(found["images"], predictor.embed_images(paths), atol=0.02)
    np.testing.assert_allclose(found["texts"], predictor.embed_texts(texts), atol=1e-4)
    np.testing.assert_allclose(found["scores"], predictor.score(paths, texts), atol=0.1)
    assert np.shape(found["captions"])[0] == len(paths)


def test_the_manifest_has_digests_and_gates(exported: tuple[str, Path]) -> None:
    model, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {*manifest["files"], "manifest.json"} == {path.name for path in folder.iterdir()}
    assert manifest["gates"]["images"] == 9
    assert manifest["gates"]["min_image_cosine"] > 0.9999
    assert manifest["fingerprint"] == coca.load(model, device="cpu").fingerprint


def test_a_changed_file_is_an_error(exported: tuple[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported[1], copy)
    (copy / "preprocess.json").write_text("{}")
    with pytest.raises(ModelError, match=re.escape("preprocess.json was changed")):
        load(copy)
