"""Exported models of both architectures, compared with torch, and used without it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coca
from coca.model.class_coca import ClassCoCa
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.efficientnet import EfficientNetLiteConfig
from coca.model.pretrained import load_model, save_model
from coca.processing.caption_words import CaptionWords, words_of
from coca.processing.class_words import ClassNoun
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from tiny import seed_weights
from tiny_data import CAPTIONS
from tiny_model import write_model
from tiny_openclip import write_open_clip

ROOT = Path(__file__).parent.parent.parent.parent
WITHOUT_TORCH = """
import json, sys
import coca
predictor = coca.load(sys.argv[1])
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

pytest.importorskip("onnxscript", reason="needs the extra onnx; run `make test-export`")
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=["coca", "branch", "openclip"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: Path
) -> tuple[str, Path]:
    """A model and its export; in another process, where no shapes are checked."""
    folder = tmp_path_factory.mktemp("exported")
    write = write_open_clip if request.param == "openclip" else write_model
    model = str(write(folder / "model"))
    if request.param == "branch":
        add_class_branch(Path(model))
    command("export", model, str(folder / "onnx"), "--format", "onnx", "--images", str(images))
    return model, folder / "onnx"


def add_class_branch(folder: Path) -> None:
    """Give the model an encoder with a classifier of its own, and an embedding that reads it."""
    config = load_model(folder).config
    assert isinstance(config, CoCaConfig)
    width = config.image.width
    image = EfficientNetLiteConfig(
        image_size=32, width=width, classes=5, class_branch=True, class_tokens=2
    )
    seed_weights()
    model = ClassCoCa(config.replace(image=image))
    assert model.class_tokens is not None
    model.class_tokens.names[:, 0] = torch.arange(9, 14)
    save_model(folder, model)
    processor = Processor.load(folder)
    transform = ImageTransform(ImageConfig(image_size=32))
    listed = [word for text in CAPTIONS for word in words_of(text)]
    words = replace(CaptionWords.of(listed), nouns=(ClassNoun(("car",), (0, 1, 2, 3, 4)),))
    Processor(transform, processor.tokenizer, processor.context_length, caption_words=words).save(
        folder
    )


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
