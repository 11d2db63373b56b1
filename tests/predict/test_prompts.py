from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.predict.prompts import CLIP_PROMPTS, PROMPTS, fill, prompts_named, sentences_of


@pytest.mark.parametrize("name", PROMPTS)
def test_each_named_set_puts_the_label_into_every_sentence(name: str) -> None:
    sentences = fill(prompts_named(name), "red panda")
    assert len(set(sentences)) == len(PROMPTS[name])
    assert all("red panda" in sentence for sentence in sentences)


def test_a_template_is_a_prompt_set() -> None:
    assert fill(prompts_named("a sketch of {}, or of a {}"), "cat") == [
        "a sketch of cat, or of a cat"
    ]


def test_braces_in_a_label_are_plain_text() -> None:
    assert fill(("a {}",), "{} and {0}") == ["a {} and {0}"]


def test_an_unknown_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'photos' is not a prompt set; .*plain, photo, drawing"):
        prompts_named("photos")


def test_a_template_without_a_placeholder_for_the_label_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a cat' has no \{\}"):
        fill(("{}", "a cat"), "dog")


def test_no_template_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one template"):
        fill((), "dog")


def test_a_single_sentence_needs_no_list() -> None:
    assert sentences_of(["cat"], "a photo of a {}") == [["a photo of a cat"]]
    assert sentences_of(["cat"], {"cat": "a {} with whiskers"}) == [["a cat with whiskers"]]


@pytest.fixture(scope="module")
def published() -> Any:
    """The templates of open_clip, whose import takes a second."""
    return pytest.importorskip("open_clip").OPENAI_IMAGENET_TEMPLATES


def test_the_prompts_are_those_that_clip_published(published: Any) -> None:
    assert {prompt.replace("{}", "cat") for prompt in CLIP_PROMPTS} == {
        sentence("cat") for sentence in published
    }
