from collections import Counter
from typing import Any

import pytest
import torch

from coca.core.errors import ConfigError, DataError
from coca.data.loading.text import SampledText, sample_text
from coca.data.sample import Sample
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import SourceConfig
from coca.runtime.prompts import CLIP_PROMPTS


def config(**settings: object) -> SourceConfig:
    return FolderConfig(path="x", **settings)  # type: ignore[arg-type]


def draws(sample: Sample, source: SourceConfig, count: int = 300) -> Counter[str]:
    generator = torch.Generator().manual_seed(0)
    return Counter(sample_text(sample, source, generator).text for _ in range(count))


TAGS: dict[str, Any] = {"keyword_field": "tags", "keyword_fraction": 1.0}


@pytest.mark.parametrize(
    ("captions", "metadata", "settings", "drawn"),
    [
        (("", " one ", "\n"), {}, {}, {"one"}),
        (("a car",), {}, {"templates": ("a drawing of {}", "{}")}, {"a drawing of a car", "a car"}),
        (("a car",), {"tags": "ein Text"}, TAGS, {"ein Text"}),
        (("a car",), {}, TAGS, {"a car"}),
        (("a car",), {"tags": []}, TAGS, {"a car"}),
        (("a car",), {"tags": " "}, TAGS, {"a car"}),
        (("a car",), {"tags": [3]}, TAGS, {"a car"}),
    ],
)
def test_captions_templates_and_keywords_are_drawn(
    captions: tuple[str, ...], metadata: Any, settings: Any, drawn: set[str]
) -> None:
    sample = Sample("a", b"", captions, metadata=metadata)
    assert draws(sample, config(**settings)).keys() == drawn


def test_labels_are_shuffled_joined_and_put_into_the_prompt_of_the_paper() -> None:
    drawn = draws(Sample("a", b"", labels=("cat", "wild_animal")), config(text="labels"))
    assert drawn.keys() == {"a photo of the cat, wild animal", "a photo of the wild animal, cat"}
    assert min(drawn.values()) > 100


def test_labels_go_into_the_prompts_of_clip_by_their_name() -> None:
    sample = Sample("a", b"", labels=("cat", "animal"))
    drawn = draws(sample, config(text="labels", templates=("clip",)), count=2000)
    orders = ("cat, animal", "animal, cat")
    assert drawn.keys() == {prompt.replace("{}", it) for prompt in CLIP_PROMPTS for it in orders}
    assert "a photo of the cat, animal." in drawn


def test_a_set_that_does_not_exist_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"'clipp' has no \{\}.*did you mean 'clip'"):
        config(templates=("clipp",))


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (Sample("a", b""), "captions"),
        (Sample("a", b"", (" ",), labels=("cat",)), "captions"),
        (Sample("a", b"", ("a cat",)), "labels"),
        (Sample("a", b"", ("a cat",), labels=("_",)), "labels"),
    ],
)
def test_a_sample_without_text_of_the_wanted_kind_is_bad(sample: Sample, text: str) -> None:
    with pytest.raises(DataError, match="sample a has no") as caught:
        sample_text(sample, config(text=text), torch.Generator())
    assert caught.value.reason == "empty_caption"


def test_half_a_character_is_bad_text() -> None:
    with pytest.raises(DataError, match="a lone surrogate") as caught:
        sample_text(Sample("a", b"", ("cat \ud83d",)), config(), torch.Generator())
    assert caught.value.reason == "bad_text"


def test_a_question_comes_with_one_of_its_answers() -> None:
    sample = Sample("a", b"", text=" what is it ", answers=("a cat", "a cat", "cat"))
    asking, generator = config(text="question"), torch.Generator().manual_seed(0)
    drawn = Counter(sample_text(sample, asking, generator) for _ in range(300))
    often, seldom = SampledText("what is it", True, "a cat"), SampledText("what is it", True, "cat")
    assert set(drawn) == {often, seldom}
    assert drawn[often] / 300 == pytest.approx(2 / 3, abs=0.1)  # 3.7 standard deviations


def test_a_claim_without_an_answer_is_put_into_its_template() -> None:
    source = config(text="question", templates=("is it so that {}?",))
    words = sample_text(Sample("a", b"", text="it rains"), source, torch.Generator())
    assert words == SampledText("is it so that it rains?", True, "")


def test_keywords_replace_captions_at_their_fraction() -> None:
    sample = Sample("a", b"", ("a caption",), metadata={"tags": ["one", " ", "two"]})
    drawn = draws(sample, config(keyword_field="tags", keyword_fraction=0.5), count=1000)
    assert drawn.keys() == {"a caption", "one", "two"}
    assert 400 < drawn["a caption"] < 600
    assert min(drawn["one"], drawn["two"]) > 180


@pytest.mark.parametrize(
    "settings",
    [
        {"keyword_fraction": 0.5},
        {"keyword_field": "tags"},
        {"keyword_field": "tags", "keyword_fraction": 0.5, "text": "labels"},
    ],
)
def test_keywords_need_both_settings_and_captions(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="keywords need both settings and text: captions"):
        config(**settings)
