"""Preprocessing without torch: pixels near those of torch, and equal token ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError, ModelError
from coca.predict.torch_loading import load_coca
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.preprocess import TextTokens, openclip_settings, settings_from, square
from coca.processing.processor import Processor
from coca.processing.tokenizer_file import leading_ids
from coca.release.onnx.gates import MAX_PIXEL_DIFFERENCE
from tiny_model import write_model
from torch_graphs import settings

SIZES = ((40, 64), (64, 40), (9, 9), (300, 40))
STRIP = (300, 7)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "shortest"])
@pytest.mark.parametrize("changes", [{}, {"interpolation": "bilinear"}, {"trim": True}])
def test_pixels_are_near_those_of_torch(resize: Any, changes: dict[str, Any]) -> None:
    config = ImageConfig(image_size=16, resize=resize, **changes)
    transform = ImageTransform(config)
    # Without AVX2, torch 2.13 resizes to a width of one pixel with errors up to 22.
    sizes = SIZES if resize == "pad" else (*SIZES, STRIP)
    for seed, size in enumerate(sizes):
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
        image[:2] = image[:, :2] = 255
        expected = transform.square(transform.read(image)).numpy().astype(int)
        found = square(image, config.settings(resampler="pillow"))
        assert np.abs(found - expected).max() <= MAX_PIXEL_DIFFERENCE


def test_openclip_models_of_images_that_are_not_square_are_refused() -> None:
    given = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    assert openclip_settings({**given, "size": [32, 32]}, Path("x")).image_size == 32
    with pytest.raises(ModelError, match="x needs images of 32 x 48 px"):
        openclip_settings({**given, "size": [32, 48]}, Path("x"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


def test_token_ids_equal_those_of_the_processor(folder: Path) -> None:
    predictor, processor = load_coca(folder, prepack=False), Processor.load(folder)
    tokens = TextTokens(folder / "tokenizer.json", settings(predictor.model, processor))
    texts = ["A red car", "", "[EOS] is text", "the cat sat on the mat " * 9, "Ünïcode ☃"]
    expected, found = processor.texts(texts).numpy(), tokens.encode(texts)
    assert (found == expected[:, : found.shape[1]]).all()
    assert not expected[:, found.shape[1] :].any()
    for text in texts[:2]:
        assert tokens.encode_prompt(text) == processor.tokenizer.encode_prompt(text)
        ids = processor.tokenizer.encode_prompt(text)
        assert tokens.decode(ids) == processor.tokenizer.decode(ids).strip()


@pytest.mark.parametrize("text", ["\ud800", "a red \udfff car"])
def test_half_a_surrogate_pair_is_the_error_of_the_processor(folder: Path, text: str) -> None:
    predictor, processor = load_coca(folder, prepack=False), Processor.load(folder)
    tokens = TextTokens(folder / "tokenizer.json", settings(predictor.model, processor))
    with pytest.raises(DataError, match="a lone surrogate") as expected:
        processor.texts([text])
    for encode in (tokens.encode_prompt, lambda text: tokens.encode([text])):
        with pytest.raises(DataError) as found:
            encode(text)
        assert (str(found.value), found.value.reason) == (str(expected.value), "bad_text")


def test_a_long_text_is_encoded_only_as_far_as_it_is_read() -> None:
    lengths = []

    def encode(text: str) -> list[int]:
        lengths.append(len(text))
        return [len(word) for word in text.split()]

    assert leading_ids(encode, "red car " * 100_000, 30) == [3, 3] * 15
    assert max(lengths) < 5_000
    lengths.clear()
    assert leading_ids(encode, "a" + " " * 10_000 + "bcd", 30) == [1, 3]
    assert lengths[-1] == 10_004


def test_a_prompt_that_fills_the_context_is_an_error(folder: Path) -> None:
    predictor = load_coca(folder, prepack=False)
    tokens = TextTokens(folder / "tokenizer.json", settings(predictor.model, predictor.processor))
    with pytest.raises(ConfigError, match="leaves no room for new tokens"):
        tokens.encode_prompt("the cat sat on the mat " * 9)


@pytest.mark.parametrize("content", [[], {"image": {}, "text": {}}, {"image": {"size": 3}}])
def test_sections_with_other_fields_are_an_error(content: Any) -> None:
    with pytest.raises(ModelError, match="does not describe the inputs"):
        settings_from(content, Path("preprocess.json"))
