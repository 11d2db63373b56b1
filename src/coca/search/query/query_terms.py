"""Query terms: weighted texts, images and vectors.

Captions of drawings and keywords are bare words, so a model of images and short labels places "a
dog" far from "dog". The vector of a query text is the mean of those of the text as typed, of its
words without stop words, and of these with the last one in the singular, where that differs. Emoji
are replaced by their Unicode names, since captions have words.

The query vector is the normalized weighted sum of the terms' vectors. A negative weight moves it
away from its term.

Dimensions: Q queries, E embedding size.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Float64
from pydantic import Field, model_validator

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError
from coca.search.records import vector_rows
from coca.search.search_options import check_text
from coca.search.words import STOP_WORDS

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
    content = content_words(text)
    bare = " ".join(content) or text
    return list(dict.fromkeys([text, bare, singular(bare) if len(content) <= MAX_WORDS else bare]))


def content_words(text: str) -> list[str]:
    """List the words of a text without punctuation around them and without stop words."""
    words = [_EDGE.sub("", word) for word in text.split()]
    return [word for word in words if word and word.casefold() not in _STOP]


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


# Query terms: weighted texts, images and vectors.


MAX_WEIGHT = 10
"""Maximum weight; only ratios matter, and the limit keeps times such as `12:30` from being
weights."""


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
    vector: Any = None
    """An embedding of shape (E,)."""
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0
    """Weight relative to the other terms, not 0; negative moves results away from it."""

    @model_validator(mode="after")
    def _check_rules(self) -> "Term":
        given = [self.text, self.image, self.vector]
        if sum(one is not None for one in given) != 1:
            raise ArgumentError("a term is one of text, image and vector, and just one of them")
        if self.text is not None:
            check_text(self.text)
        if self.weight == 0:
            raise ArgumentError("weight must not be 0: the term would have no effect")
        return self


NEGATIVE_WEIGHT = -0.5
"""Weight of what a typed text does not want. Of the first ten hits of 25 queries such as "dog
without grass" over photos with captions, 93 % instead of 14 % show a dog and no grass; weights of
-0.2 to -0.8 give 91 to 93 %."""
NEGATIONS = "without no not ohne nicht kein keine keinem keinen keiner keines"
LINKS = (
    "a an and any are but has have having is that the which with aber das dem den der die ein eine "
    "einem einen einer hat ist mit sind und"
)
"""Words that are left out before a negation, and around what it negates."""
ORDERS = "can do does may must should bitte"
"""Words after which "not" gives an order, such as "do not enter"."""
_NEGATIONS, _LINKS, _ORDERS = (frozenset(words.split()) for words in (NEGATIONS, LINKS, ORDERS))


def typed_terms(text: str, weight: float = 1.0) -> list[Term]:
    """Read a typed text: what follows `-`, "without", "no", "not", "ohne" or "kein" is unwanted.

    "dog but no grass" is "dog", and "grass" with a negative weight. A comma, "but" and "aber" end
    what is unwanted. A text of which nothing else is left ("no smoking"), or that is an order ("do
    not enter"), stays as it is.

    Args:
        text: The text as typed.
        weight: Weight of what is wanted; a text with a weight below 0 stays as it is.
    """
    check_text(text)
    wanted: list[str] = []
    unwanted: list[list[str]] = []
    words = wanted
    for token in text.split():
        word = _EDGE.sub("", token).casefold()
        if word in _NEGATIONS and not (words and words[-1].casefold() in _ORDERS):
            words[:] = _without_links(words)
            words = []
            unwanted.append(words)
        elif token[0] == "-" and token[1:2].isalpha():
            unwanted.append([token[1:]])
            words = wanted
        elif words is not wanted and word in ("but", "aber"):
            words = wanted
        else:
            words.append(token)
            if words is not wanted and token[-1] in ",;":
                words = wanted
    unwanted = [_without_links(_without_links(words)[::-1])[::-1] for words in unwanted]
    parts = [_EDGE.sub("", " ".join(words)) for words in (_without_links(wanted), *unwanted)]
    if weight <= 0 or not unwanted or not all(parts):
        return [Term(text=text, weight=weight)]
    negative = (Term(text=part, weight=NEGATIVE_WEIGHT * weight) for part in parts[1:])
    return [Term(text=parts[0], weight=weight), *negative]


EXAMPLES_WEIGHT = -0.25
"""Total weight of unwanted examples, against 1 of the wanted ones. Of the next ten photos after
five marks of each kind, 0.61, 0.45 and 0.77 are right on three sets; 0.60, 0.42 and 0.77 with -0.5;
0.50, 0.28 and 0.63 with a weight of 1 for each example, as unwanted ones then turn the sum."""


def weigh_examples(positive: Sequence[Term], negative: Sequence[Term]) -> list[Term]:
    """Scale terms so that the query is the mean of the wanted less a part of that of the unwanted.

    Args:
        positive: Wanted texts, images and vectors, with what their typed texts do not want.
        negative: Unwanted ones, with weights above 0.
    """
    terms = []
    for some, weight in ((positive, 1.0), (negative, EXAMPLES_WEIGHT)):
        total = sum(term.weight for term in some if term.weight > 0)
        terms += [term.replace(weight=weight * term.weight / total) for term in some]
    return terms


def _without_links(words: Sequence[str]) -> list[str]:
    """Remove words of `_LINKS` from the end."""
    kept = [row for row, word in enumerate(words) if word.casefold().strip(",;") not in _LINKS]
    return list(words[: kept[-1] + 1]) if kept else []


def check_terms(terms: Sequence[Term]) -> None:
    """Validate a list of terms; a text or a dict of texts and weights is not one."""
    if isinstance(terms, str | Mapping) or not all(isinstance(term, Term) for term in terms):
        raise ArgumentError(
            f"the terms must be a list, got {terms!r}; an example is "
            "[Term(text='red car'), Term(text='night', weight=-0.3)]"
        )


def query_vectors(vectors: Any, embed_dim: int) -> Float64[np.ndarray, "Q E"]:
    """Normalize query vectors to rows of length 1; any length but 0 is allowed."""
    rows = vector_rows(vectors, embed_dim, np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    for row, length in enumerate(lengths):
        if not math.isfinite(length):
            raise ArgumentError(f"vector {row} to search for has NaN or infinity among its numbers")
        if length == 0:
            raise ArgumentError(f"vector {row} to search for is all zeros and has no direction")
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
