from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.model.decoding import BEAMS, Decoding, Written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_return": 0}, "num_return is 0"),
        ({"max_words": 0}, "max_words is 0; it must be at least 1"),
        ({"min_words": -1}, "min_words is -1"),
        ({"min_words": 5, "max_words": 4}, "min_words 5 is above max_words 4"),
        ({"num_beams": 2, "num_return": 3}, "2 beams cannot return 3 captions"),
        ({"num_beams": 1, "num_return": 2}, "1 beams cannot return 2 captions"),
        ({"num_beams": 2, "temperature": 1.0}, "use either"),
        ({"num_beams": 2, "top_k": 5}, "use either"),
        ({"num_beams": 1, "top_p": 0.5}, "use either"),
        ({"temperature": 0.0}, "above 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"seed": -1}, "seed is -1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"no_repeat_ngram": -2}, "no_repeat_ngram is -2"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "does not divide"),
        ({"num_beams": 4, "num_beam_groups": 2}, "go together"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "go together"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Decoding(**options)


@pytest.mark.parametrize(
    ("options", "beams", "sampled"),
    [
        ({}, BEAMS, False),
        ({"num_return": 9}, 9, False),
        ({"num_beams": 1}, 1, False),
        ({"temperature": 0.7}, 1, True),
        ({"top_p": 0.7, "num_return": 9}, 1, True),
    ],
)
def test_what_is_not_said_follows_from_what_is(
    options: dict[str, Any], beams: int, sampled: bool
) -> None:
    decoding = Decoding(**options)
    assert (decoding.beams, decoding.sampled) == (beams, sampled)


def test_the_total_is_the_sum_over_words_and_end() -> None:
    written = Written([7, 8], [-0.5, -0.25, -1.0], rank=-0.6, ended=True)
    assert written.total == -1.75
