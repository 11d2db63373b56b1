from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.model.generation.generation_config import (
    DEFAULT_BEAMS,
    GeneratedSequence,
    GenerationConfig,
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1 or null, got 0"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "at most max_new_tokens 4, got 5"),
        ({"num_beams": 2, "num_return_sequences": 3}, "2 beams cannot return 3 captions"),
        ({"num_beams": 1, "num_return_sequences": 2}, "1 beams cannot return 2 captions"),
        ({"num_beams": 2, "temperature": 1.0}, "use either"),
        ({"num_beams": 2, "top_k": 5}, "use either"),
        ({"num_beams": 1, "top_p": 0.5}, "use either"),
        ({"temperature": 0.0}, "temperature must be a number in .*, got 0.0"),
        ({"length_penalty": 1e6}, r"in \[-10, 10\], got 1000000.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GenerationConfig(**options)


@pytest.mark.parametrize(
    ("options", "beams", "sampled"),
    [
        ({}, DEFAULT_BEAMS, False),
        ({"num_return_sequences": 9}, 9, False),
        ({"num_beams": 1}, 1, False),
        ({"temperature": 0.7}, 1, True),
        ({"top_p": 0.7, "num_return_sequences": 9}, 1, True),
    ],
)
def test_defaults_follow_from_the_given_options(
    options: dict[str, Any], beams: int, sampled: bool
) -> None:
    decoding = GenerationConfig(**options)
    assert (decoding.beams, decoding.sampled) == (beams, sampled)


def test_the_total_is_the_sum_over_tokens_and_end() -> None:
    caption = GeneratedSequence([7, 8], [-0.5, -0.25, -1.0], rank=-0.6, ended=True)
    assert caption.total == -1.75
