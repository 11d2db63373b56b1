"""The layout of immich, read by the steps of its machine learning service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import coca
from coca.core.errors import ConfigError, ModelError
from tiny_image_text import write_openclip, write_transformers
from tiny_model import write_model
from tiny_openclip import write_open_clip

pytest.importorskip("onnxscript", reason="needs the extra onnx; the library is missing")
runtime = pytest.importorskip("onnxruntime")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.timeout(1800)

TEXTS = ["a cat", "the car  on the\troad", "a " * 100]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def embed_text(folder: Path, text: str) -> np.ndarray:
    """The steps of the service: spaces, tokenizer with padding and truncation, int32 ids."""
    length = read_json(folder / "config.json")["text_cfg"]["context_length"]
    pad = read_json(folder / "textual" / "tokenizer_config.json")["pad_token"]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    ids = tokenizer.encode(" ".join(text.split())).ids
    session = runtime.InferenceSession(str(folder / "textual" / "model.onnx"))
    return session.run(None, {"text": np.array([ids], np.int32)})[0][0]


def embed_image(folder: Path, image: Image.Image) -> np.ndarray:
    """The steps of the service: resize, divide, normalize, one float image."""
    config = read_json(folder / "visual" / "preprocess_cfg.json")
    side, filter = config["size"][0], Image.Resampling[config["interpolation"].upper()]
    if config["resize_mode"] == "squash":
        image = image.resize((side, side), filter)
    else:
        scale = side / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), filter)
        left, top = int(image.width / 2 - side / 2), int(image.height / 2 - side / 2)
        image = image.crop((left, top, left + side, top + side))
    mean, std = (np.array(config[name], np.float32) for name in ("mean", "std"))
    pixels = np.asarray(image, np.float32) / 255 * (1 / std) - mean / std
    session = runtime.InferenceSession(str(folder / "visual" / "model.onnx"))
    return session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0][0]


def export(model: Path, out: Path) -> None:
    """Export in another process, where no shapes are checked."""
    words = ["export", str(model), str(out), "--format", "immich", "--json"]
    done = subprocess.run([sys.executable, "-m", "coca", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["images"] == 32
    assert min(result["min_image_cosine"], result["min_text_cosine"]) > 0.9999


@pytest.mark.parametrize("kind", ["coca", "openclip"])
def test_the_service_computes_the_vectors_of_torch(kind: str, tmp_path: Path) -> None:
    model = (write_model if kind == "coca" else write_open_clip)(tmp_path / "model")
    export(model, tmp_path / "out")
    predictor = coca.load(model, device="cpu")
    # The service joins words by one space.
    joined = [" ".join(text.split()) for text in TEXTS]
    for text, expected in zip(TEXTS, predictor.embed_texts(joined), strict=True):
        np.testing.assert_allclose(embed_text(tmp_path / "out", text), expected, atol=1e-4)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    # Noise amplifies the differences of the resizers; its mean does not.
    image = Image.fromarray(pixels).resize((8, 8)).resize((60, 45), Image.Resampling.BICUBIC)
    found, (expected,) = embed_image(tmp_path / "out", image), predictor.embed_images(image)
    assert found @ expected > 0.999


@pytest.mark.parametrize("name", ["openclip-clip", "hf-siglip"])
def test_an_exported_folder_is_a_model_with_the_same_vectors(name: str, tmp_path: Path) -> None:
    if name == "openclip-clip":
        model = write_openclip(tmp_path / "model")
    else:
        model = write_transformers(tmp_path / "model", family="siglip")
    export(model, tmp_path / "out")
    library, immich = coca.load(model, device="cpu"), coca.load(tmp_path / "out", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32)).astype(np.uint8)
    texts = ["", "a photo of a dog", "Red car 1965", " ".join(["word"] * 90)]
    vectors = immich.embed_prepared([*images]), immich.embed_texts(texts)
    np.testing.assert_allclose(vectors[0], library.embed_prepared([*images]), atol=2e-6, rtol=0)
    np.testing.assert_allclose(vectors[1], library.embed_texts(texts), atol=2e-6, rtol=0)
    refuse_damaged(tmp_path / "out", [*images])


def refuse_damaged(folder: Path, images: list[np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="in fp32, got precision bf16"):
        coca.load(folder, precision="bf16")
    for name, changes, sentence in (
        ("visual/preprocess_cfg.json", {"resize_mode": "longest"}, "resized by 'longest'"),
        ("config.json", {"embed_dim": None}, "does not describe an image-text model"),
    ):
        content = read_json(folder / name)
        (folder / name).write_text(json.dumps({**content, **changes}), encoding="utf-8")
        with pytest.raises(ModelError, match=sentence):
            coca.load(folder)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "visual" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"visual/model\.onnx cannot be loaded"):
        coca.load(folder).embed_prepared(images)
