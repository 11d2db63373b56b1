"""Query terms: weighted texts, images and vectors.

Captions of drawings and keywords are bare words, so a model of images and short labels places "a
dog" far from "dog". The vector of a query text is the mean of those of the text as typed, of its
words without stop words, and of these with the last one in the singular, where that differs. Emoji
are replaced by their Unicode names, since captions have words.

The query vector is the normalized weighted sum of the terms' vectors. A negative weight moves it
away from its term. On a command line the weight follows the last colon, `night:-0.3`, and
consecutive words without a weight are one text, `coca search a red car`.

Dimensions: Q queries, E embedding size.
"""

import math
import os
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Interval
from jaxtyping import Float, Float32, Float64

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError, ConfigError
from coca.core.files.formats import PHOTO_SUFFIXES, VIDEO_SUFFIXES
from coca.search.query.words import STOP_WORDS
from coca.search.search_options import check_text

# Query texts: the forms in which a text is embedded.


_EDGE = re.compile(r"^\W+|\W+$")
"""Punctuation around a word."""

MAX_WORDS = 3
"""Number of content words up to which the last one is also searched in the singular."""

# Each rule without lists that was tried is worse. MRR@10 of the 80 queries of
# benchmarks/ranking_queries.yaml over drawings, half of them with captions: 0.506 with both lists;
# 0.476 with the endings alone, as without a singular; 0.491 if the tokenizer knows the singular;
# 0.467 unless it knows the plural alone; 0.483 with the shortest known word of the same stem; 0.487
# if both vectors have a cosine of 0.3. Cosines do not separate them: "taco" and "tacos" have 0.11,
# "mar" and "mars" 0.83.
_PAIRS = (
    "calves:calf canoes:canoe children:child cookies:cookie feet:foot geese:goose halves:half "
    "knives:knife leaves:leaf loaves:loaf men:man mice:mouse movies:movie people:person "
    "scarves:scarf shelves:shelf teeth:tooth thieves:thief wolves:wolf women:woman zombies:zombie"
)
_IRREGULAR = dict(pair.split(":") for pair in _PAIRS.split())
_KEPT = (
    "athens atlas binoculars canvas chaos christmas clothes cosmos glasses goggles headphones "
    "jeans lens mars mercedes news pajamas pants pyjamas scissors series shorts species sunglasses "
    "texas trousers"
)
_NO_PLURAL = frozenset(_KEPT.split())
_ENDINGS = (
    (r"(?<=[a-z][^aeiou])ies$", "y"),
    (r"(?<=ss|ch|sh)es$|(?<=x)es$|(?<=[^o]us)es$|(?<=[a-z][a-z][^h]o)es$", ""),
    # "bus", "grass" and "tennis" are not plurals.
    (r"(?<=[a-z][a-z][a-hj-rtv-z])s$", ""),
)
"""The first that fits is replaced."""

_EMOJI_BLOCKS = (
    *((0x231A, 0x231B), (0x23E9, 0x23F3), (0x2600, 0x27BF), (0x2B50, 0x2B55)),
    *((0x1F300, 0x1F6FF), (0x1F7E0, 0x1F7EB), (0x1F900, 0x1F9FF), (0x1FA70, 0x1FAFF)),
)
_UNSPOKEN = (0x200D, 0xFE0F, *range(0x1F3FB, 0x1F400))
"""Joiner, variation selector and skin tones, which are left out of the name of an emoji."""

_EMOJI = {
    code: f" {unicodedata.name(chr(code)).lower()} "
    for first, last in _EMOJI_BLOCKS
    for code in range(first, last + 1)
    if unicodedata.category(chr(code)) == "So" and code not in _UNSPOKEN
}
_EMOJI[0x2764] = " red heart "  # its name in Unicode is "heavy black heart"
_STOP = frozenset(STOP_WORDS.split())
_NAMES: dict[int, str] = {**_EMOJI, **dict.fromkeys(_UNSPOKEN, "")}

RULES = {
    "stop": STOP_WORDS.split(),
    "max_words": MAX_WORDS,
    "irregular": _IRREGULAR,
    "no_plural": sorted(_NO_PLURAL),
    "endings": _ENDINGS,
    "emoji": {chr(code): name for code, name in _EMOJI.items()},
    "unspoken": "".join(map(chr, _UNSPOKEN)),
}
"""All rules, for a search page in another language; expressions are the same in JavaScript."""


def name_emoji(text: str) -> str:
    """Replace emoji by their Unicode names; a text without emoji is unchanged."""
    if not any(ord(char) in _EMOJI for char in text):
        return text
    return " ".join(text.translate(_NAMES).split())


def query_forms(query: str) -> list[str]:
    """Return the texts whose mean embedding is that of a query.

    They are the text as typed, with names for emoji; its words without stop words, if there are
    others; and of at most three of these words, the last one in the singular.
    """
    text = name_emoji(query)
    words = [_EDGE.sub("", word) for word in text.split()]
    content = [word for word in words if word and word.casefold() not in _STOP]
    bare = " ".join(content) or text
    return list(dict.fromkeys([text, bare, singular(bare) if len(content) <= MAX_WORDS else bare]))


def singular(text: str) -> str:
    """Replace an English plural at the end of a text; a text without one is unchanged."""
    start, space, word = text.rpartition(" ")
    lower = word.lower()
    if lower in _NO_PLURAL:
        return text
    if lower in _IRREGULAR:
        return start + space + _IRREGULAR[lower]
    for ending, replaced in _ENDINGS:
        if re.search(ending, lower):
            return start + space + re.sub(ending, replaced, word, flags=re.IGNORECASE)
    return text


def embed_queries(
    embed_texts: Callable[[Sequence[str]], Float32[np.ndarray, "N E"]], queries: Sequence[str]
) -> Float32[np.ndarray, "Q E"]:
    """Embed queries as vectors of length 1; see the head of this module."""
    forms = [query_forms(query) for query in queries]
    unique = list(dict.fromkeys(text for some in forms for text in some))
    vectors = dict(zip(unique, embed_texts(unique), strict=True))
    means = np.stack([np.mean([vectors[text] for text in some], axis=0) for some in forms])
    # A vector of one text has length 1 already, and stays equal to the last bit.
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    several = np.array([[len(some) > 1] for some in forms])
    return np.divide(means, lengths, out=means, where=several).astype(np.float32, copy=False)


# Query terms: weighted texts, images and vectors, and their command-line syntax.


MAX_WEIGHT = 10
"""Maximum weight; only ratios matter, and the limit keeps times such as `12:30` from being
weights."""

_WEIGHT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_NEARLY = re.compile(r"[+-]?[\d.,]*\d[\d.,]*%?|[+-]?(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Term(Config):
    """One text, image or vector of a query, with its weight.

    Example:
        engine.search(terms=[Term(text="red car"), Term(text="night", weight=-0.3)])
    """

    range_error: ClassVar = ArgumentError

    text: str | None = None
    """Query text, or text to move away from."""
    image: Any = None
    """An image, in any form that the embedder reads."""
    vector: Float[np.ndarray, " E"] | None = field(default=None, compare=False)
    """An embedding."""
    weight: Annotated[float, Interval(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0
    """Weight relative to the other terms, not 0; negative moves results away from it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [self.text, self.image, self.vector]
        if sum(one is not None for one in given) != 1:
            raise ArgumentError("a term is one of text, image and vector, and just one of them")
        if self.text is not None:
            check_text(self.text)
        if self.weight == 0:
            raise ArgumentError("weight must not be 0: the term would have no effect")


def parse_terms(texts: Sequence[str], images: Sequence[str] = ()) -> list[Term]:
    """Parse terms of a command line, such as `red car`, `night:-0.3`, `cat.jpg:0.5`.

    A number after the last colon is the weight; otherwise the colon is part of the text. A text
    that ends in such a number needs a weight: `half past 12:30:1`. If a file with the colon in its
    name exists, the image is that file.
    """
    return _checked(_terms_of_options(texts, images))


def parse_arguments(
    words: Sequence[str], texts: Sequence[str] = (), images: Sequence[str] = ()
) -> list[Term]:
    """Parse the positional arguments of a command line, followed by the terms of its options.

    A shell splits an unquoted text at its spaces, so consecutive words without a weight are one
    text. A word with a weight is a term of its own. The name of an image file is an image.
    """
    if collections := [word for word in words if word.endswith(".db") and os.path.exists(word)]:
        raise ConfigError(f"{collections[0]} is a collection: use --uri {collections[0]}")
    given: list[tuple[str, Term]] = []
    for kind, group in groupby(words, lambda word: _kind_of(word, words)):
        if kind == "text":
            text = " ".join(group)
            given.append((text, _parse(text, "text", (text.strip(), 1.0))))
        elif kind == "image":
            given += _terms_of_options((), list(group))
        else:
            given += _terms_of_options(list(group), ())
    return _checked([*given, *_terms_of_options(texts, images)])


def check_terms(terms: Sequence[Term]) -> None:
    """Validate a list of terms; a text or a dict of texts and weights is not one."""
    if isinstance(terms, str | Mapping) or not all(isinstance(term, Term) for term in terms):
        raise ArgumentError(
            f"the terms must be a list, got {terms!r}; an example is "
            "[Term(text='red car'), Term(text='night', weight=-0.3)]"
        )


def query_vectors(vectors: Any, embed_dim: int) -> Float64[np.ndarray, "Q E"]:
    """Normalize query vectors to rows of length 1; any length but 0 is allowed."""
    try:
        rows = np.asarray(vectors, np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"the vectors to search for must be arrays of {embed_dim} numbers, one per query"
        ) from None
    if rows.ndim != 2 or rows.shape[1] != embed_dim:
        raise ArgumentError(
            f"the vectors to search for have the shape {rows.shape}; this collection takes rows of "
            f"{embed_dim} numbers"
        )
    lengths = np.linalg.norm(rows, axis=1)
    for row, length in enumerate(lengths):
        if not math.isfinite(length):
            raise ArgumentError(f"vector {row} to search for has NaN or infinity among its numbers")
        if length == 0:
            raise ArgumentError(f"vector {row} to search for is all 0, and so leads nowhere")
    return rows / lengths[:, np.newaxis]


def direction(
    vectors: Sequence[Float[np.ndarray, "Q E"]], weights: Sequence[float]
) -> Float32[np.ndarray, "Q E"]:
    """Compute the normalized weighted sum of the terms' vectors for each query."""
    pairs = zip(vectors, weights, strict=True)
    total = np.sum([weight * np.asarray(part, np.float64) for part, weight in pairs], axis=0)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    if not np.all(length > 1e-6):
        raise ArgumentError("the terms point in opposite directions: nothing is left to search for")
    return (total / length).astype(np.float32)


def _terms_of_options(texts: Sequence[str], images: Sequence[str]) -> list[tuple[str, Term]]:
    """Parse words with optional weights to pairs of a word and its term."""
    return [
        *((word, _parse(word, "text", _split(word))) for word in texts),
        *(
            (word, _parse(word, "image", (word, 1.0) if os.path.exists(word) else _split(word)))
            for word in images
        ),
    ]


def _checked(given: Sequence[tuple[str, Term]]) -> list[Term]:
    """Return the terms of pairs of a word and its term, if they form a query."""
    if not given:
        raise ConfigError("there is nothing to search for: give a text, --image FILE, or both")
    terms = [term for _, term in given]
    if len(given) == 1 and terms[0].weight != 1:
        word = given[0][0]
        raise ConfigError(
            f"a single term needs no weight, and {word!r} has {terms[0].weight:g}; "
            f"if the number belongs to it, write {word + ':1'!r}"
        )
    if all(term.weight < 0 for term in terms):
        raise ConfigError(
            "every term has a weight below 0, so there is nothing to look for: add one above 0"
        )
    return terms


def _kind_of(word: str, words: Sequence[str]) -> str:
    """Return "image", "text", or "weighted" for a text with a weight, for a positional argument."""
    head, colon, tail = word.rpartition(":")
    weighted = bool(colon) and _NEARLY.fullmatch(tail.strip()) is not None
    for path in (word, head) if weighted else (word,):
        if _is_image_name(path) and os.path.isfile(path):
            return "image"
    if not any(character.isspace() for character in word):
        _check_no_path(head if weighted and _is_image_name(head) else word, words)
    if not weighted:
        return "text"
    if len(words) > 1 and head.strip().replace(".", "").isdecimal():
        text = " ".join(words)
        raise ConfigError(
            f"the number after the colon of {word!r} looks like a weight; if it belongs to the "
            f"text, write {text + ':1'!r} in quotes"
        )
    return "weighted"


def _check_no_path(word: str, words: Sequence[str]) -> None:
    """Reject the path of something that is not a query, with the command that reads it."""
    shown = shlex.quote(word)
    text = shlex.quote(" ".join(words))
    if "://" in word:
        raise ConfigError(
            f"{word} is an address, and a search reads local images: download it and give the file"
        )
    if os.sep in word and os.path.isdir(word):
        raise ConfigError(
            f"{word} is a folder: `coca index {shown}` makes its images searchable; to search by "
            "an image, give its file"
        )
    if Path(word).suffix.lower() in VIDEO_SUFFIXES and os.path.isfile(word):
        raise ConfigError(
            f"{word} is a video, and a search reads images: give one of its frames; to search for "
            f"the text, use --text {text}"
        )
    if _is_image_name(word):
        whole = " ".join(words)
        quotes = f"; for {whole!r} quote the name" if os.path.isfile(whole) else ""
        raise ConfigError(
            f"{word} does not exist{quotes}; to search for the text, use --text {text}"
        )


def _is_image_name(path: str) -> bool:
    return Path(path).suffix.lower() in PHOTO_SUFFIXES


def _split(word: str) -> tuple[str, float]:
    head, colon, tail = word.rpartition(":")
    tail = tail.strip()
    if colon and _WEIGHT.fullmatch(tail):
        return head.strip(), float(tail)
    if colon and _NEARLY.fullmatch(tail):
        raise ConfigError(
            f"the weight {tail!r} in {word!r} is not a number such as 0.5 or -1; "
            f"if it belongs to the term, write {word + ':1'!r}"
        )
    return word.strip(), 1.0


def _parse(word: str, kind: str, parts: tuple[str, float]) -> Term:
    value, weight = parts
    if not value:
        raise ConfigError(f"there is nothing to search for in {word!r}")
    if not 0 < abs(weight) <= MAX_WEIGHT:
        raise ConfigError(
            f"the weight of {word!r} must be in [-{MAX_WEIGHT:g}, {MAX_WEIGHT:g}] and not 0, got "
            f"{weight:g}; if the number belongs to the term, write {word + ':1'!r}"
        )
    return Term(text=value, weight=weight) if kind == "text" else Term(image=value, weight=weight)
