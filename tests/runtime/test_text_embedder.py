"""The embedder of texts without torch, compared with the whole model."""

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import coca
from coca.core.errors import ModelError
from coca.inference import loading
from coca.inference.predictor import Predictor
from coca.release.onnx.onnx_export import text_settings
from coca.runtime.short_vectors import shorten
from coca.runtime.text_embedder import (
    METADATA_KEY,
    TEXT_GRAPH_FILE,
    TextEmbedder,
    has_text_graph,
)
from coca.search.predictor import CaptionScorer, Embedder
from coca.weights import shipped
from tiny_data import image_bytes

pytest.importorskip("onnxruntime", reason="needs the extra search")

FILES = ["model.safetensors", "tokenizer.json", "processor.json", "config.json", TEXT_GRAPH_FILE]
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
    embedder, whole, texts = TextEmbedder(name, never), loading.load(name), texts_of(name)
    np.testing.assert_allclose(
        embedder.embed_texts(texts), whole.embed_texts(texts), rtol=0, atol=1e-5
    )
    assert embedder.fingerprint == whole.fingerprint
    assert embedder.embed_dim == whole.embed_dim
    assert embedder.logit_scale == whole.logit_scale


def test_one_text_is_a_list_of_one_and_no_texts_have_no_vectors() -> None:
    embedder = TextEmbedder("everyday", never)
    np.testing.assert_array_equal(embedder.embed_texts("a car"), embedder.embed_texts(["a car"]))
    assert embedder.embed_texts([]).shape == (0, embedder.embed_dim)


def test_anything_but_texts_loads_the_whole_model_once() -> None:
    loaded = []

    def load() -> coca.Predictor:
        loaded.append(loading.load("everyday"))
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


@pytest.mark.parametrize("name", shipped())
def test_a_graph_has_the_settings_that_an_export_would_write_now(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(shipped()[name] / TEXT_GRAPH_FILE)
    about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    predictor = coca.load(name)
    assert isinstance(predictor, Predictor)
    processor = predictor.processor
    settings = {
        "image": asdict(processor.image_config.settings(resampler="pillow")),
        "text": asdict(text_settings(predictor.model.config.text, processor)),
    }
    assert about["preprocess"] == json.loads(json.dumps(settings))
    assert about["logit_scale"] == pytest.approx(predictor.logit_scale, rel=1e-6)


@pytest.mark.parametrize("file", FILES)
def test_a_file_with_a_flipped_bit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    path = tmp_path / "weights" / "everyday" / file
    shutil.copytree(shipped()["everyday"], path.parent)
    monkeypatch.setattr("coca.weights.resources.files", lambda _: tmp_path)
    TextEmbedder("everyday", never)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{file} is missing or damaged"):
        TextEmbedder("everyday", never)


def test_a_folder_comes_before_a_shipped_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert has_text_graph("everyday")
    (tmp_path / "everyday").mkdir()
    assert not has_text_graph("everyday")
    assert not has_text_graph("runs/model")
