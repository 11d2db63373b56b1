"""The embedder of texts without torch, compared with the whole model."""

import json
import random
import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import coca
from coca.core.errors import ModelError
from coca.model.shipped import FINGERPRINTS, shipped
from coca.predict.manifest import GRAPHS, PREPROCESS_FILE, is_exported
from coca.predict.onnx_predictor import OnnxPredictor
from coca.predict.short_vectors import shorten
from coca.predict.text_embedder import TextEmbedder
from coca.predict.torch_loading import load_coca
from coca.search.predictor import CaptionScorer, Embedder
from tiny_data import image_bytes

FILES = [*(f"{graph}.onnx" for graph in GRAPHS), "model.safetensors", "tokenizer.json"]
FILES += ["processor.json", "config.json", "caption_words.txt", PREPROCESS_FILE]
ODD_TEXTS = (
    "",
    " \t\n ",
    ".",
    "A RED CAR",
    "🚗",
    "🚗🚗 red 🏳️\u200d🌈 👩\u200d🚀",
    "собака бежит",
    "犬が走る",
    "كلب",
    "na\u00efve cafe\u0301 \ufb01",
    "\x00",
    "[BOS] [EOS] [CLS] [PAD]",
    "<br>&amp;",
    "x" * 5_000,
    "a red car " * 400,
)


def never() -> NoReturn:
    raise AssertionError("the whole model was loaded")


def texts_of(name: str) -> list[str]:
    """Texts of tokens in any order, of any length, and odd texts."""
    content = json.loads((shipped()[name] / "tokenizer.json").read_text(encoding="utf-8"))
    known, chosen = sorted(content["model"]["vocab"]), random.Random(0)
    lengths = [chosen.randint(1, 45) for _ in range(300)]
    return [*ODD_TEXTS, *(" ".join(chosen.choices(known, k=length)) for length in lengths)]


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_vectors_of_texts_and_the_fingerprint_are_those_of_the_whole_model(name: str) -> None:
    embedder, whole, texts = TextEmbedder(name, never), load_coca(name), texts_of(name)
    np.testing.assert_allclose(
        embedder.embed_texts(texts), whole.embed_texts(texts), rtol=0, atol=1e-5
    )
    assert embedder.fingerprint == whole.fingerprint
    assert embedder.embed_dim == whole.embed_dim
    assert embedder.logit_scale == whole.logit_scale


def test_anything_but_texts_loads_the_whole_model_once() -> None:
    loaded = []

    def load() -> coca.Predictor:
        loaded.append(load_coca("everyday"))
        return loaded[-1]

    embedder = TextEmbedder("everyday", load)
    assert isinstance(embedder, Embedder)
    assert isinstance(embedder, CaptionScorer)
    embedder.embed_texts("a car")
    assert not loaded
    image = image_bytes(0)
    scores = embedder.score([image], ["a car"])
    vectors = shorten(embedder, 16).embed_images([image])
    assert vectors.shape == (1, 16)
    assert embedder.caption([image], num_beams=1)[0].text
    assert len(loaded) == 1
    np.testing.assert_array_equal(scores, loaded[0].score([image], ["a car"]))


@pytest.mark.parametrize("file", FILES)
def test_a_file_with_a_flipped_bit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    path = tmp_path / "weights" / "everyday" / file
    shutil.copytree(shipped()["everyday"], path.parent)
    monkeypatch.setattr("coca.model.shipped.resources.files", lambda _: tmp_path)
    TextEmbedder("everyday", never)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{file} was changed"):
        TextEmbedder("everyday", never)


def test_a_shipped_model_runs_on_onnx_where_torch_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not is_exported("everyday")
    whole = coca.load("everyday", device="cpu")
    monkeypatch.setattr("coca.predict.manifest.find_spec", lambda name: None)
    assert is_exported("everyday")
    exported = coca.load("everyday")
    assert isinstance(exported, OnnxPredictor)
    assert exported.fingerprint == whole.fingerprint == FINGERPRINTS["everyday"]
    # Of the model's own size, since torch and Pillow round differently.
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    photos, texts = [*pixels], ["a red square", "a dog"]
    found, expected = (model.embed_images(photos) for model in (exported, whole))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    scores, wanted = (model.score(photos, texts) for model in (exported, whole))
    np.testing.assert_allclose(scores, wanted, atol=1e-3)
    captions = [[one.text for one in model.caption(photos)] for model in (exported, whole)]
    assert captions[0] == captions[1]
