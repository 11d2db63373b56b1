"""What a model reads in an image: the support of words, their maps and the labels."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, PoolerConfig
from coca.model.pretrained import load_config_file, save_model
from coca.predict.image_reading import BEFORE_WORD
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.caption_words import CaptionWords
from coca.search.query import background
from coca.search.query.explanation import label_vectors
from tiny import seed_weights, sharpened
from tiny_data import image_bytes
from tiny_model import write_model

IMAGE = image_bytes(3)


@pytest.fixture(scope="module")
def unpooled(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    """A model whose decoder reads the cells of the image."""
    folder = write_model(tmp_path_factory.mktemp("unpooled"), words=CaptionWords.of(["cat", "dog"]))
    seed_weights()
    config = load_config_file(folder)
    assert isinstance(config, CoCaConfig)
    pooler = PoolerConfig(kind="none", heads=2)
    save_model(folder, sharpened(CoCa(config.replace(pooler=pooler))))
    return load_coca(folder, device="cpu")


@torch.no_grad()
def log_p(predictor: TorchPredictor, text: str, seen: torch.Tensor) -> float:
    """log p(text | image tokens) without the end, by a forward pass without cache or packing."""
    ids = torch.tensor([predictor.processor.tokenizer.encode_prompt(text)])
    model = predictor.model
    states = model.multimodal_decoder(
        model.unimodal_decoder(ids), model.multimodal_decoder.read_image(seen)
    )
    log_ps = F.linear(states, model.vocabulary_weight).log_softmax(dim=2)[0, :-1]
    return float(log_ps.gather(1, ids[0, 1:, None]).sum())


def test_support_is_what_the_image_adds_to_the_likelihood_of_a_word(
    predictor: TorchPredictor,
) -> None:
    reading = predictor.read_image(IMAGE, ["cat", "zebra"], captioned=True)
    assert reading.caption == predictor.caption(IMAGE)[0].text
    with torch.no_grad():
        seen = predictor.model.image_tokens(predictor.processor.images([IMAGE]))
    for word in reading.words:
        given, prior = (
            log_p(predictor, f"{BEFORE_WORD} {word.word}", tokens)
            - log_p(predictor, BEFORE_WORD, tokens)
            for tokens in (seen, torch.zeros_like(seen))
        )
        assert word.log_p == pytest.approx(given, abs=1e-3)
        assert word.support == pytest.approx(given - prior, abs=1e-3)
        assert word.map is None


def test_the_map_of_a_word_is_the_cosine_of_each_cell_as_an_image(unpooled: TorchPredictor) -> None:
    (word,) = unpooled.read_image(IMAGE, ["cat"]).words
    grid = np.array(word.map)
    assert grid.shape == (4, 4)
    model = unpooled.model
    with torch.no_grad():
        tokens = model.encode(unpooled.processor.images([IMAGE])).tokens
        assert isinstance(model, CoCa)
        assert model.contrastive_pooler is not None
        pooled = model.contrastive_pooler(tokens[:, 6:7])[:, 0]
        cell = F.normalize(model.image_projection(pooled), dim=1)[0].numpy()
    assert_allclose(grid[1, 2], cell @ unpooled.embed_texts("cat")[0], atol=1e-5)


def test_labels_are_the_words_of_the_model_and_cached(
    unpooled: TorchPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    labels, vectors = label_vectors(unpooled)
    assert labels == ["cat", "dog"]
    assert_allclose(vectors, unpooled.embed_texts(labels), atol=1e-3)
    background._EMBEDDED.clear()
    known = {name: getattr(unpooled, name) for name in ("source", "fingerprint", "embed_dim")}
    again = label_vectors(SimpleNamespace(**known))
    assert_allclose(again[1], vectors, atol=1e-3)
