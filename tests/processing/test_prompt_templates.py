import pytest

from coca.processing.prompt_templates import CLIP_PROMPTS


def test_the_prompts_are_those_that_clip_published() -> None:
    published = pytest.importorskip("open_clip").OPENAI_IMAGENET_TEMPLATES
    assert {prompt.replace("{}", "cat") for prompt in CLIP_PROMPTS} == {
        sentence("cat") for sentence in published
    }


def test_there_are_80_different_ones_with_one_placeholder_each() -> None:
    assert len(set(CLIP_PROMPTS)) == len(CLIP_PROMPTS) == 80
    assert all(prompt.count("{}") == 1 for prompt in CLIP_PROMPTS)
