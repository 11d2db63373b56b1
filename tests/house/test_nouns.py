"""The benchmark of everyday nouns: what a caption names, and how a ranking is scored."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypernyms import ClassText


@pytest.fixture
def nouns(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return import_module("nouns")


def test_precision_is_of_five_hits_or_of_as_many_as_are_right(nouns: Any) -> None:
    scores = -np.arange(8.0)
    two = np.isin(np.arange(8), (0, 3))
    assert nouns.rates(scores, two) == (0.5, (1 + 2 / 4) / 2)
    six = np.isin(np.arange(8), (1, 2, 4, 5, 6, 7))
    assert nouns.rates(scores, six)[0] == 3 / 5


def test_a_caption_names_the_longest_words_in_singular_or_plural(nouns: Any) -> None:
    vocabulary = {"dog": {0}, "hot dog": {1}, "shark": {2}, "great white shark": {2}}
    caption = "Two hot dogs, dogs and a great white shark."
    assert nouns.named(caption, vocabulary) == ["hot dog", "dog", "great white shark"]


def test_captions_are_counted_by_what_they_name(nouns: Any) -> None:
    classes = [ClassText(names, "") for names in (("pug",), ("orange",), ("diver",))]
    own = {"dog": {0}, "animal": {0}, "fruit": {1}, "person": {2}, "man": {2}}
    captions = {
        "a man and a pug": 0,
        "a dog and a dog": 0,
        "an animal": 0,
        "a picture of a orange": 0,
        "an hour with fruits": 1,
        "a unicycle with an diver": 2,
    }
    words = nouns.Words(classes, [], {"citrus": {1}}, own, {})
    found = nouns.caption_figures(list(captions), list(captions.values()), words)
    assert {name: round(6 * value) for name, value in found.items()} == {
        "names the class": 2,
        "names the class or a noun above": 4,
        "names another": 1,
        "names another alone": 1,
        "template": 1,
        "a word twice": 1,
        "wrong article": 2,
    }
