from collections import Counter

import pytest
import torch

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources import SourceConfig
from coca.data.text import draw_caption


def config(**settings: object) -> SourceConfig:
    return SourceConfig(kind="folder", path="x", **settings)  # type: ignore[arg-type]


def draws(sample: Sample, source: SourceConfig, count: int = 300) -> Counter[str]:
    generator = torch.Generator().manual_seed(0)
    return Counter(draw_caption(sample, source, generator) for _ in range(count))


def test_each_caption_is_drawn_about_equally_often() -> None:
    drawn = draws(Sample("a", b"", ("one", "two", "three")), config())
    assert drawn.keys() == {"one", "two", "three"}
    assert min(drawn.values()) > 60


def test_blank_captions_are_never_drawn_and_spaces_around_are_cut() -> None:
    assert draws(Sample("a", b"", ("", " one ", "\n")), config()).keys() == {"one"}


def test_labels_are_shuffled_joined_and_put_into_the_prompt_of_the_paper() -> None:
    drawn = draws(Sample("a", b"", labels=("cat", "wild_animal")), config(text="labels"))
    assert drawn.keys() == {"a photo of the cat, wild animal", "a photo of the wild animal, cat"}
    assert min(drawn.values()) > 100


def test_templates_are_drawn_and_filled() -> None:
    source = config(templates=("a drawing of {}", "{}"))
    drawn = draws(Sample("a", b"", ("a car",)), source)
    assert drawn.keys() == {"a drawing of a car", "a car"}


def test_the_same_generator_state_gives_the_same_text() -> None:
    sample = Sample("a", b"", tuple("abcdefgh"))
    texts = {draw_caption(sample, config(), torch.Generator().manual_seed(7)) for _ in range(5)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (Sample("a", b""), "captions"),
        (Sample("a", b"", (" ",), labels=("cat",)), "captions"),
        (Sample("a", b"", ("a cat",)), "labels"),
        (Sample("a", b"", ("a cat",), labels=("_",)), "labels"),
    ],
)
def test_a_sample_without_words_of_the_wanted_kind_is_bad(sample: Sample, text: str) -> None:
    with pytest.raises(DataError, match="sample a has no") as caught:
        draw_caption(sample, config(text=text), torch.Generator())
    assert caught.value.reason == "empty_caption"


def test_half_a_character_is_bad_text() -> None:
    with pytest.raises(DataError, match="half a surrogate pair") as caught:
        draw_caption(Sample("a", b"", ("cat \ud83d",)), config(), torch.Generator())
    assert caught.value.reason == "bad_text"
