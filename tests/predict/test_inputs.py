from collections.abc import Iterator

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from coca.predict.caching import caching
from coca.predict.inputs import as_images, as_texts, with_marks_and_articles
from coca.predict.torch_predictor import TorchPredictor
from tiny_data import image_bytes
from tiny_ranks import run_unchecked


def images() -> Iterator[bytes]:
    return (image_bytes(number) for number in range(3))


def test_a_generator_gives_what_its_list_gives(predictor: TorchPredictor) -> None:
    assert_array_equal(predictor.embed_images(images()), predictor.embed_images(list(images())))
    assert len(predictor.caption(images(), prompt=(word for word in "abc"))) == 3
    labels = (label for label in ("car", "dog"))
    assert [len(row) for row in predictor.classify(images(), labels)] == [2, 2, 2]
    words = ["a car", "dogs"]
    assert_array_equal(predictor.embed_texts(iter(words)), predictor.embed_texts(words))
    assert_array_equal(caching(predictor).embed_texts(iter(words)), predictor.embed_texts(words))


def test_an_array_of_texts_is_many_and_one_of_pixels_a_single_image() -> None:
    assert as_texts(np.array(["a", "b"])) == ["a", "b"]
    assert len(as_images(np.zeros((4, 5, 3), np.uint8))) == 1


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a man 's dog , and a cat .", "a man's dog, and a cat."),
        ("a dog . two cats .", "a dog. two cats."),
        ("it does n't run !", "it doesn't run!"),
        ("version .5 of 'sam'", "version .5 of 'sam'"),
        (" . ", ". "),
        ("a orange and a uniform on a ugly owl", "an orange and a uniform on an ugly owl"),
        ("the letter a is on a unlit sign", "the letter a is on an unlit sign"),
        ("", ""),
    ],
)
def test_marks_of_a_caption_follow_their_word(written: str, shown: str) -> None:
    assert with_marks_and_articles(written) == shown
    assert with_marks_and_articles(shown) == shown


# In a process of its own: the type checks of these tests would speak first.
WRONG_KINDS = """
import io

from types import SimpleNamespace

import torch

import coca
from coca.core.errors import ConfigError, DataError

model = coca.load("everyday", device="cpu", prepack=False)
image = b"GIF89a"
table = SimpleNamespace(columns=["path"])
for call, words in (
    (lambda: model.embed_images(None), "an image must be a path, the bytes of a file, a PIL"),
    (lambda: model.embed_images([None]), "got a NoneType"),
    (lambda: model.embed_images(io.BytesIO(image)), "got a BytesIO"),
    (lambda: model.embed_images(bytearray(image)), "got a bytearray"),
    (lambda: model.embed_images(torch.zeros(3, 8, 8)), "got a Tensor"),
    (lambda: model.embed_images({"a.png": 1}), "got a dict"),
    (lambda: model.embed_texts(None), "text 0 must be a str, got NoneType"),
    (lambda: model.embed_texts(["a", float("nan")]), "text 1 must be a str, got float (nan)"),
    (lambda: model.embed_texts(b"cat"), "text 0 must be a str, got int"),
    (lambda: model.embed_images(table), "pass one column, such as table['path'], instead of"),
    (lambda: model.embed_texts(table), "pass one column, such as table['path'], instead of"),
    (lambda: model.classify([], {"a": 1}), "got a mapping: pass its keys or its values"),
    (lambda: model.classify([], "car, frog"), "such as ['car', 'frog'], got the text 'car, frog'"),
    (lambda: coca.load(model), "load takes the name or the folder of a model"),
    (lambda: coca.index(table, "a.db"), "the sources must be paths, got SimpleNamespace"),
    (lambda: model.classify([], ["a"], by="sound"), "by is 'sound'; choose one of similarity"),
):
    try:
        call()
    except (ConfigError, DataError) as error:
        assert words in str(error), error
    else:
        raise SystemExit(f"{words}: was taken")
"""


def test_what_is_neither_image_nor_text_is_reported_by_its_type() -> None:
    run_unchecked(WRONG_KINDS)
