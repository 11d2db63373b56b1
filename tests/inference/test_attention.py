import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.inference.attention import draw_word_maps
from coca.inference.predictor import Predictor
from coca.model.attention_maps import cross_attention_maps
from tiny_data import image_bytes

IMAGE = image_bytes(3)
CAPTION = "the small cat sleeps"


def test_each_word_of_a_caption_has_a_map_of_shares(predictor: Predictor) -> None:
    found = predictor.explain_caption(IMAGE, caption=CAPTION)
    assert list(found.words) == CAPTION.split()
    assert found.maps.shape == (4, 4, 4)
    assert_allclose(found.maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert_allclose(found.contrast.mean(axis=0), 1, rtol=1e-5)


def test_a_word_of_several_tokens_has_the_mean_of_their_maps(predictor: Predictor) -> None:
    tokenizer = predictor.processor.tokenizer
    caption = "a zebra"
    ids = tokenizer.encode_prompt(caption)
    first = len(tokenizer.encode_prompt("a")) - 1
    assert len(ids) > first + 2
    images = predictor.processor.images([IMAGE])
    each = (
        cross_attention_maps(predictor.model, images, torch.tensor([ids]))[0]
        .numpy()
        .reshape(-1, 4, 4)
    )
    found = predictor.explain_caption(IMAGE, caption=caption)
    assert found.words == ("a", "zebra")
    assert_allclose(found.maps[0], each[:first].mean(axis=0), rtol=1e-4)
    assert_allclose(found.maps[1], each[first:-1].mean(axis=0), rtol=1e-4)


def test_the_caption_is_the_model_s_own_unless_given(predictor: Predictor) -> None:
    caption = predictor.caption(IMAGE)[0]
    found = predictor.explain_caption(IMAGE)
    assert list(found.words) == caption.text.split()
    begun = predictor.caption(IMAGE, prompt="the small")[0]
    again = predictor.explain_caption(IMAGE, caption=begun, prompt="the small")
    assert list(again.words) == begun.text.split()
    wanted = predictor.explain_caption(IMAGE, prompt="the small")
    assert_allclose(again.maps, wanted.maps)


@pytest.mark.parametrize("caption", ["", "a " * 40])
def test_a_caption_that_the_model_cannot_read_is_refused(
    predictor: Predictor, caption: str
) -> None:
    with pytest.raises(ConfigError, match="cannot be explained"):
        predictor.explain_caption(IMAGE, caption=caption)


def test_a_broken_image_is_named(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r"nowhere\.png"):
        predictor.explain_caption(Path("nowhere.png"), caption="a cat")


def test_the_image_is_shown_as_the_model_saw_it(predictor: Predictor) -> None:
    gray = np.full((40, 40, 3), (200, 100, 50), np.uint8)
    seen = predictor.explain_caption(gray, caption="a").image
    assert seen.shape == (16, 16, 3)
    assert (seen == (200, 100, 50)).all()


def test_drawings_are_images_with_a_tile_for_each_word(predictor: Predictor) -> None:
    maps = predictor.explain_caption(IMAGE, caption="a $^$ bench")
    small = Image.open(io.BytesIO(draw_word_maps(maps, columns=2)))
    wide = Image.open(io.BytesIO(draw_word_maps(maps, columns=9)))
    # Two rows of two tiles, and one of four; below them the scale.
    assert small.width == wide.width // 2
    assert 1.5 * wide.height < small.height < 2 * wide.height


def test_a_constant_map_is_drawn_as_well(predictor: Predictor) -> None:
    maps = predictor.explain_caption(IMAGE, caption="a")
    assert_allclose(maps.contrast, 1)
    assert Image.open(io.BytesIO(draw_word_maps(maps))).format == "PNG"


@pytest.mark.parametrize("caption", ["a \0 bench", "a\nbench \x1b[2J"])
def test_control_characters_of_a_caption_are_drawn_escaped(
    predictor: Predictor, caption: str
) -> None:
    # Matplotlib warns of characters that its font lacks, and warnings are errors here.
    maps = predictor.explain_caption(IMAGE, caption=caption)
    assert Image.open(io.BytesIO(draw_word_maps(maps))).format == "PNG"
