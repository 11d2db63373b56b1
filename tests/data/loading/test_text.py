from collections import Counter
from typing import Any

import pytest
import torch

from coca.core.errors import ConfigError, DataError
from coca.data.loading.text import sample_text
from coca.data.sample import Sample
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import SourceConfig


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
