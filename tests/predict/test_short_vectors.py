from pathlib import Path

import numpy as np
import pytest

import coca
from coca.core.errors import ConfigError
from coca.predict.short_vectors import shorten, shortened


def unit_rows(count: int, size: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("dimensions", [1, 5, 16])
def test_the_first_numbers_are_kept_in_their_direction(dimensions: int) -> None:
    rows = unit_rows(4, 16)
    short = shortened(rows, dimensions)
    assert short.shape == (4, dimensions)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-6)
    parts = rows[:, :dimensions]
    np.testing.assert_allclose(short * np.linalg.norm(parts, axis=1, keepdims=True), parts, 1e-5)


def test_a_vector_of_zeros_stays_zero() -> None:
    assert not shortened(np.zeros((1, 4), np.float32), 2).any()


@pytest.mark.parametrize("dimensions", [-1, 0, 17])
def test_other_sizes_are_an_error(dimensions: int) -> None:
    with pytest.raises(ConfigError, match=rf"must be in \[1, 16\], got {dimensions}"):
        shortened(unit_rows(1, 16), dimensions)


def test_a_short_predictor_shares_the_model_and_writes_the_same_captions(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="compares with the predictor of torch")
    from coca.predict.torch_loading import load_coca
    from coca.predict.torch_predictor import TorchPredictor
    from tiny_data import image_bytes
    from tiny_model import write_model

    folder = write_model(tmp_path / "model")
    whole = load_coca(folder, device="cpu")
    short = shorten(whole, 8)
    assert isinstance(short, TorchPredictor)
    assert short.model is whole.model
    assert (short.embed_dim, short.fingerprint) == (8, whole.fingerprint)
    assert whole.embed_dim == 24
    images, texts = [image_bytes(0), image_bytes(1)], ["a cat", "a dog"]
    for found, expected in (
        (short.embed_images(images), whole.embed_images(images)),
        (short.embed_texts(texts), whole.embed_texts(texts)),
    ):
        np.testing.assert_allclose(found, shortened(expected, 8), atol=1e-6)
    prepared = [short.prepare_image(image) for image in images]
    np.testing.assert_allclose(
        short.embed_prepared(prepared), short.embed_images(images), atol=1e-6
    )
    assert short.caption(images) == whole.caption(images)
    assert short.class_embeddings(texts).shape == (2, 8)
    assert shorten(whole, 24) is whole
    loaded = coca.load(folder, device="cpu", dimensions=8)
    np.testing.assert_allclose(loaded.embed_texts(texts), short.embed_texts(texts), atol=1e-6)
    with pytest.raises(ConfigError, match=r"dimensions must be in \[1, 24\], got 25"):
        coca.load(folder, device="cpu", dimensions=25)
