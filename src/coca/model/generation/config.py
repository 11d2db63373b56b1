"""Generation config: greedy, beam search or sampling, and the logits processors of each."""

from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_args

from coca.core.errors import ConfigError, check_options

Stopping: TypeAlias = Literal["full", "likely", "certain"]

DEFAULT_BEAMS = 4
"""Default number of beams."""

MAX_LENGTH_PENALTY = 10.0
"""Largest absolute value: beyond it, a power of a length overflows fp32."""

TEMPERATURE_RANGE = (1e-9, 1e9)
"""Allowed range: below it, divided logits overflow fp32; above it, all tokens are equally
likely."""

_WHOLE = (
    "num_beams",
    "num_return_sequences",
    "max_new_tokens",
    "min_new_tokens",
    "num_beam_groups",
    "top_k",
    "seed",
    "no_repeat_ngram_size",
)
_REAL = ("length_penalty", "diversity_penalty", "temperature", "top_p", "repetition_penalty")


def _require(statement: bool, message: str) -> None:
    if not statement:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Decoding strategy and its options, with the names of Hugging Face.

    Beam search is the default; it keeps the `num_beams` likeliest captions at every step. Greedy
    decoding is `num_beams=1`. Any of `temperature`, `top_k` and `top_p` selects sampling, which
    cannot be combined with `num_beams`.
    """

    num_beams: int | None = None
    """Beams per image; 1 is greedy decoding. None: 4, or `num_return_sequences` if that is larger;
    unused when sampling."""
    num_return_sequences: int = 1
    """Captions returned per image, best first."""
    max_new_tokens: int | None = None
    """Maximum number of tokens after the prompt, [EOS] included. None: up to the context length."""
    min_new_tokens: int = 0
    """Minimum number of tokens after the prompt before [EOS] is allowed."""
    length_penalty: float = 1.0
    """Exponent of the length that divides a caption's log-probability for ranking: 0 ranks by the
    sum and favours short captions, 1 ranks by the mean. From -10 to 10."""
    early_stopping: Stopping = "likely"
    """When the search for an image ends. `full`: `num_beams` captions have ended. `likely`: the
    best open beam ranks below all ended captions at its present length. `certain`: no open beam
    can reach them at any length. Each is slower than the one before."""
    num_beam_groups: int = 1
    """Groups of beams for diverse beam search."""
    diversity_penalty: float = 0.0
    """Nats subtracted from a token's score for each beam of an earlier group with the same token
    at the same step (Vijayakumar et al., 2016, arXiv 1610.02424)."""
    temperature: float | None = None
    """Divisor of the logits for sampling; below 1 favours likely tokens. From 1e-9 to 1e9."""
    top_k: int | None = None
    """Sample from the `top_k` likeliest tokens only."""
    top_p: float | None = None
    """Sample from the smallest set of likeliest tokens with at least this total probability."""
    seed: int = 0
    """Seed of the random generator. An image's captions depend on the seed and on the image, not
    on the rest of its batch."""
    repetition_penalty: float = 1.0
    """Penalty on tokens that occurred before: their score is multiplied by it if negative and
    divided by it if positive (CTRL, arXiv 1909.05858). The score is a log-probability in beam
    search, otherwise a logit. 1: no penalty."""
    no_repeat_ngram_size: int = 0
    """Length of n-grams that may occur only once, prompt included; 0: no limit."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            self._require_kind(name, Integral, "a whole number")
        for name in _REAL:
            self._require_kind(name, Real, "a number")
        stoppings = get_args(Stopping)
        _require(
            self.early_stopping in stoppings,
            f"early_stopping is {self.early_stopping!r}; choose one of {', '.join(stoppings)}",
        )
        for name in ("num_return_sequences", "num_beam_groups"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; at least 1")
        for name in ("num_beams", "max_new_tokens", "top_k"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} is {value}; it must be at least 1")
        for name in ("min_new_tokens", "no_repeat_ngram_size", "diversity_penalty", "seed"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} is {value}; it must not be negative")
        lowest, highest = TEMPERATURE_RANGE
        _require(
            self.temperature is None or lowest <= self.temperature <= highest,
            f"temperature is {self.temperature}; it must be from {lowest:g} to {highest:g} (0 "
            "would be num_beams=1)",
        )
        _require(
            abs(self.length_penalty) <= MAX_LENGTH_PENALTY,
            f"length_penalty is {self.length_penalty}; it must be from {-MAX_LENGTH_PENALTY:g} to "
            f"{MAX_LENGTH_PENALTY:g}",
        )
        _require(
            self.top_p is None or 0 < self.top_p <= 1,
            f"top_p is {self.top_p}; it is a probability above 0 and at most 1",
        )
        _require(
            self.repetition_penalty > 0,
            f"repetition_penalty is {self.repetition_penalty}; it must be above 0",
        )
        _require(
            self.max_new_tokens is None or self.min_new_tokens <= self.max_new_tokens,
            f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}",
        )
        _require(
            not self.sampled or self.num_beams is None,
            "temperature, top_k and top_p select sampling, num_beams selects beam search; "
            "use either",
        )
        self._check_groups()

    @classmethod
    def of(cls, **options: Unpack["GenerationOptions"]) -> "GenerationConfig":
        """Build a config from the keywords of a call.

        Raises:
            ConfigError: An option is unknown, out of range, or conflicts with another option.
        """
        known = [*GenerationOptions.__annotations__, "prompt", "progress"]
        check_options(options, known, of="captioning")
        return cls(**options)

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

    def _require_kind(self, name: str, kind: type[Any], allowed: str) -> None:
        """Check the type of a field at run time; NaN is not accepted."""
        value = getattr(self, name)
        fits = isinstance(value, kind) and not isinstance(value, bool) and isfinite(value)
        optional = type(self).__dict__[name] is None
        _require(fits or (optional and value is None), f"{name} is {value!r}; it must be {allowed}")

    def _check_groups(self) -> None:
        beams, groups = self.beams, self.num_beam_groups
        _require(
            self.sampled or self.num_return_sequences <= beams,
            f"{beams} beams cannot return {self.num_return_sequences} captions; set num_beams to "
            f"{self.num_return_sequences}, or a temperature to draw them",
        )
        _require(
            beams % groups == 0,
            f"num_beam_groups {groups} does not divide the {beams} beams",
        )
        _require(
            (groups > 1) == (self.diversity_penalty > 0),
            "num_beam_groups above 1 and diversity_penalty above 0 go together: it is the penalty "
            "that makes groups differ",
        )


class GenerationOptions(TypedDict, total=False):
    """The fields of `GenerationConfig` as keywords of a call."""

    num_beams: int | None
    num_return_sequences: int
    max_new_tokens: int | None
    min_new_tokens: int
    length_penalty: float
    early_stopping: Stopping
    num_beam_groups: int
    diversity_penalty: float
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int
    repetition_penalty: float
    no_repeat_ngram_size: int


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
