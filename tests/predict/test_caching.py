from pathlib import Path

import numpy as np
import pytest

from coca.predict.caching import caching
from coca.predict.short_vectors import shorten
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from tiny_data import image_bytes
from tiny_model import write_model
from tiny_run import Bars, recording


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    return load_coca(write_model(tmp_path_factory.mktemp("model")), device="cpu")


def test_answers_are_those_of_the_model_in_the_order_of_the_question(plain: TorchPredictor) -> None:
    model = caching(plain)
    images, texts = [image_bytes(n) for n in range(5)], ["a red car", "two dogs", "a red car"]
    for some in (images[:3], images, [images[4], images[0], images[4]]):
        # Batches of other sizes differ by rounding.
        np.testing.assert_allclose(model.embed_images(some), plain.embed_images(some), atol=1e-6)
    for given in (texts[:1], texts, texts[::-1], "two dogs"):
        np.testing.assert_allclose(model.embed_texts(given), plain.embed_texts(given), atol=1e-6)
    assert model.embed_images([]).shape == model.embed_texts([]).shape == (0, plain.embed_dim)
    assert model.fingerprint == plain.fingerprint


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    plain = load_coca(write_model(tmp_path), device="cpu", prepack=False)
    caching(plain)
    assert not any("prepack" in vars(weight) for weight in plain.model.parameters())


def test_short_vectors_stay_short(plain: TorchPredictor) -> None:
    short = shorten(plain, 8)
    model = caching(short)
    assert model.embed_dim == 8
    np.testing.assert_array_equal(model.embed_texts(["a dog"]), short.embed_texts(["a dog"]))


def test_nothing_is_embedded_twice(plain: TorchPredictor) -> None:
    model = caching(plain)
    images = [image_bytes(n) for n in range(4)]
    model.embed_images(images[:3])
    model.embed_texts(["one", "two"])
    bars: Bars = {}
    with recording(bars):
        model.embed_images([*images, images[3]])
        model.embed_texts(["two", "three", "three", "one"])
    assert list(bars) == [("embedding images", 1), ("embedding texts", 1)]


def test_a_file_is_read_each_time(plain: TorchPredictor, tmp_path: Path) -> None:
    model, path = caching(plain), tmp_path / "a.png"
    vectors = []
    for number in range(2):
        path.write_bytes(image_bytes(number))
        vectors += [model.embed_images([path])[0], model.embed_images(path)[0]]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])
