"""Generation config: greedy, beam search or sampling, and the logits processors of each."""

from dataclasses import dataclass
from typing import Annotated, TypedDict, Unpack

from pydantic import Field, model_validator

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.processing.caption_words import WordChoice

DEFAULT_BEAMS = 4
"""Default number of beams."""


def _require(statement: bool, message: str) -> None:
    if not statement:
        raise ConfigError(message)


class GenerationConfig(Config):
    """Decoding strategy and its options, with the names of Hugging Face.

    Beam search is the default; it keeps the `num_beams` likeliest captions at every step. Greedy
    decoding is `num_beams=1`. Any of `temperature`, `top_k` and `top_p` selects sampling, which
    cannot be combined with `num_beams`.

    The fields are also the keywords of `Predictor.caption` and the options of `coca caption`.
    """

    num_return_sequences: Annotated[int, Field(ge=1)] = 1
    """Captions per image, best first."""
    num_beams: Annotated[int, Field(ge=1)] | None = None
    """Beams per image of beam search; 1 is greedy decoding, the fastest. Default: 4, or
    `num_return_sequences` if that is larger; not used by sampling. The search of an image ends when
    no open beam ranks above its best `num_beams` finished captions at its present length."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tokens after the prompt, [EOS] included. Default: up to the model's context
    length."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Minimum number of tokens after the prompt before [EOS] is allowed."""
    # The bounds of lengths to a power, and of divided logits, keep them finite in fp32.
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """Exponent of the length that divides a caption's log-probability for ranking: 0 ranks by the
    sum and favours short captions, 1 ranks by the mean over tokens."""
    temperature: Annotated[float, Field(ge=1e-9, le=1e9)] | None = None
    """Divisor of the logits for sampling; below 1 favours likely tokens. Greedy decoding is
    `num_beams=1`, not 0."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Sample from the K likeliest tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the smallest set of likeliest tokens with at least this total probability
    (nucleus sampling)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of sampling. Each image draws other numbers, from the seed and its pixels; they do not
    depend on the rest of its batch."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Penalty on tokens that occurred before: their score is multiplied by it if negative and
    divided by it if positive (CTRL, arXiv 1909.05858). The score is a log-probability in beam
    search, otherwise a logit. 1: no penalty."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """Length of token n-grams that may occur only once, prompt included; 0: no limit. An unfinished
    word of the model's list may be finished."""
    words: WordChoice = "polite"
    """Words that are generated, if the model has a list of words: all of the list but the withheld
    ones, which are impolite about people (polite), all of the list (listed), or any sequence of
    tokens (any)."""

    @model_validator(mode="after")
    def _check_rules(self) -> "GenerationConfig":
        _require(
            self.max_new_tokens is None or self.min_new_tokens <= self.max_new_tokens,
            f"min_new_tokens must be at most max_new_tokens {self.max_new_tokens}, "
            f"got {self.min_new_tokens}",
        )
        _require(
            not self.sampled or self.num_beams is None,
            "temperature, top_k and top_p select sampling, num_beams selects beam search; "
            "use either",
        )
        _require(
            self.sampled or self.num_return_sequences <= self.beams,
            f"{self.beams} beams cannot return {self.num_return_sequences} captions; set num_beams "
            f"to {self.num_return_sequences}, or a temperature to draw them",
        )
        return self

    @classmethod
    def of(
        cls, base: "GenerationConfig | None" = None, **options: Unpack["GenerationOptions"]
    ) -> "GenerationConfig":
        """Build a config from the keywords of a call."""
        return (base or cls()).replace(**options)

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled."""
        return any(given is not None for given in (self.temperature, self.top_k, self.top_p))

    @property
    def beams(self) -> int:
        """Resolved number of beams; 1 for sampling and greedy decoding."""
        if self.sampled:
            return 1
        return (
            max(DEFAULT_BEAMS, self.num_return_sequences)
            if self.num_beams is None
            else self.num_beams
        )


class GenerationOptions(TypedDict, total=False):
    """The fields of `GenerationConfig` as keywords of a call."""

    num_return_sequences: int
    num_beams: int | None
    max_new_tokens: int | None
    min_new_tokens: int
    length_penalty: float
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int
    repetition_penalty: float
    no_repeat_ngram_size: int
    words: WordChoice


@dataclass(frozen=True)
class GeneratedSequence:
    """One generated caption."""

    token_ids: list[int]
    """Generated tokens after the prompt, without [BOS] and [EOS]."""
    log_probabilities: list[float]
    """Log-probability of each token in nats, and of [EOS] if it was reached. Logits processors do
    not change it."""
    rank: float
    """Score by which the captions of an image are sorted, highest first. Beam search: the score
    divided by the length penalty. Sampling: the sum of `log_probabilities`."""
    ended: bool
    """Whether [EOS] was reached before the maximum length."""

    @property
    def total(self) -> float:
        """Log-probability of the whole caption in nats."""
        return sum(self.log_probabilities)
