"""How captions are written: the way words are chosen, and the rules that hold for any way."""

from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_args

from coca.core.errors import ConfigError, check_options

Stopping: TypeAlias = Literal["full", "likely", "certain"]

BEAMS = 4
"""Beams of a search that was not told how many."""

MOST_LENGTH_PENALTY = 10.0
"""Beyond it, either way, the power of a length no longer fits a number of 32 bits."""

TEMPERATURES = (1e-9, 1e9)
"""Below, logits divided by it no longer fit a number of 32 bits; above, all words are alike."""

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
    """One of three ways to choose words, with its options.

    Beam search keeps the few likeliest captions at every step; it is the default. Greedy, its case
    of one beam, takes the likeliest word. Sampling draws words; any of `temperature`, `top_k` and
    `top_p` asks for it. Beams and samples do not mix.
    """

    num_beams: int | None = None
    """Captions that are kept while searching; 1 is greedy. None: 4, or `num_return_sequences` if
    that is more, or no search at all where words are drawn."""
    num_return_sequences: int = 1
    """Captions an image, the best first."""
    max_new_tokens: int | None = None
    """Most tokens behind the prompt, [EOS] included; None: all that the context holds."""
    min_new_tokens: int = 0
    """Tokens behind the prompt before [EOS] is allowed."""
    length_penalty: float = 1.0
    """Exponent of the length, by which a caption's log-probability is divided to rank it: 0 ranks
    by the sum and favours short captions, 1 ranks by the mean. From -10 to 10."""
    early_stopping: Stopping = "likely"
    """When the search for an image ends: `full`, once `num_beams` captions have ended; `likely`,
    once the best running caption ranks below all of them at its present length; `certain`, once
    no running caption can reach them at any length. Each is slower than the one before."""
    num_beam_groups: int = 1
    """Groups that the beams are split into, so that each writes something else."""
    diversity_penalty: float = 0.0
    """Nats off a word for each beam of an earlier group that takes it at the same step
    (Vijayakumar et al., 2016, arXiv 1610.02424)."""
    temperature: float | None = None
    """Divides the logits before words are drawn; below 1 favours likely words. From 1e-9 to 1e9."""
    top_k: int | None = None
    """Draw from the likeliest words only, so many."""
    top_p: float | None = None
    """Draw from the smallest set of likeliest words that holds this much probability."""
    seed: int = 0
    """Start of the random numbers. An image's captions depend on it and on the image alone, not
    on the rest of its batch."""
    repetition_penalty: float = 1.0
    """Makes words that occurred less likely: their score, a log-probability in a search and a logit
    otherwise, is multiplied by it if negative and divided by it if positive (CTRL, arXiv
    1909.05858). 1 changes nothing."""
    no_repeat_ngram_size: int = 0
    """Length of a run of tokens that may occur only once, prompt included; 0: any may repeat."""

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
        least, most = TEMPERATURES
        _require(
            self.temperature is None or least <= self.temperature <= most,
            f"temperature is {self.temperature}; it must be from {least:g} to {most:g} (0 would be "
            "num_beams=1)",
        )
        _require(
            abs(self.length_penalty) <= MOST_LENGTH_PENALTY,
            f"length_penalty is {self.length_penalty}; it must be from {-MOST_LENGTH_PENALTY:g} to "
            f"{MOST_LENGTH_PENALTY:g}",
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
            "temperature, top_k and top_p draw words, num_beams searches; use either",
        )
        self._check_groups()

    @classmethod
    def of(cls, **options: Unpack["GenerationOptions"]) -> "GenerationConfig":
        """Make it from the keywords of a call.

        Raises:
            ConfigError: One is unknown, out of range, or contradicts another.
        """
        known = [*GenerationOptions.__annotations__, "prompt", "progress"]
        check_options(options, known, of="captioning")
        return cls(**options)

    @property
    def sampled(self) -> bool:
        """Whether words are drawn."""
        return any(given is not None for given in (self.temperature, self.top_k, self.top_p))

    @property
    def beams(self) -> int:
        """Captions that a search keeps; 1 where there is none."""
        if self.sampled:
            return 1
        return max(BEAMS, self.num_return_sequences) if self.num_beams is None else self.num_beams

    def _require_kind(self, name: str, kind: type[Any], words: str) -> None:
        """Checks a field's type, as callers without a type checker need it; NaN is no number."""
        value = getattr(self, name)
        fits = isinstance(value, kind) and not isinstance(value, bool) and isfinite(value)
        optional = type(self).__dict__[name] is None
        _require(fits or (optional and value is None), f"{name} is {value!r}; it must be {words}")

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
    """One caption as the model wrote it."""

    token_ids: list[int]
    """The words behind the prompt, without [BOS] and [EOS]."""
    log_probabilities: list[float]
    """Natural logarithm of the model's probability of each word, and of [EOS] where it was
    reached; the options of decoding do not change it."""
    rank: float
    """What the captions of an image are ordered by, the highest first: of a search its score
    divided by the length penalty, of samples the sum of `log_probabilities`."""
    ended: bool
    """Whether [EOS] was reached, rather than the largest length."""

    @property
    def total(self) -> float:
        """Natural logarithm of the probability of the whole caption."""
        return sum(self.log_probabilities)
