import subprocess
import sys
from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.model.generation.config import DEFAULT_BEAMS, GeneratedSequence, GenerationConfig


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens 5 is above max_new_tokens 4"),
        ({"num_beams": 2, "num_return_sequences": 3}, "2 beams cannot return 3 captions"),
        ({"num_beams": 1, "num_return_sequences": 2}, "1 beams cannot return 2 captions"),
        ({"num_beams": 2, "temperature": 1.0}, "use either"),
        ({"num_beams": 2, "top_k": 5}, "use either"),
        ({"num_beams": 1, "top_p": 0.5}, "use either"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be from 1e-09"),
        ({"temperature": 1e-30}, "from 1e-09 to 1e"),
        ({"temperature": float("inf")}, "temperature is inf; it must be a number"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; it must be a number"),
        ({"length_penalty": -100.0}, "length_penalty is -100.0; it must be from -10 to 10"),
        ({"length_penalty": 1e6}, "from -10 to 10"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"diversity_penalty": float("inf"), "num_beam_groups": 2}, "diversity_penalty is inf"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"seed": -1}, "seed is -1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size is -2"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "does not divide"),
        ({"num_beams": 4, "num_beam_groups": 2}, "go together"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "go together"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GenerationConfig(**options)


# In a subprocess: the type checks of these tests would raise first.
WRONG_KINDS = """
from coca.core.errors import ConfigError
from coca.model.generation.config import GenerationConfig

for options, words in (
    ({"num_beams": 2.5}, "num_beams is 2.5; it must be a whole number"),
    ({"num_beams": "4"}, "num_beams is '4'; it must be a whole number"),
    ({"min_new_tokens": True}, "min_new_tokens is True; it must be a whole number"),
    ({"temperature": "hot"}, "temperature is 'hot'; it must be a number"),
    ({"length_penalty": None}, "length_penalty is None; it must be a number"),
    ({"early_stopping": "maybe"}, "is 'maybe'; choose one of full, likely, certain"),
    ({"early_stopping": True}, "is True; choose one of full, likely, certain"),
):
    try:
        GenerationConfig(**options)
    except ConfigError as error:
        assert words in str(error), error
    else:
        raise SystemExit(f"{options} were taken")
"""


def test_options_of_a_wrong_kind_are_refused_where_no_type_checker_looks() -> None:
    subprocess.run([sys.executable, "-c", WRONG_KINDS], check=True)


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
