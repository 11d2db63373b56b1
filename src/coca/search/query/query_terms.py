"""What a query is made of: texts and images, each with a weight; and how a weight is written.

A query's vector is the direction of the weighted sum of its terms' vectors: a negative weight leads
away from its term. On a command line a weight follows the last colon, as in `night:-0.3`.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from coca.core.errors import ArgumentError, ConfigError
from coca.search.milvus.pagination import check_text

MAX_WEIGHT = 10.0
"""Weights only count relative to each other, and a time of day (`12:30`) is no weight."""

_WEIGHT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_NEARLY = re.compile(r"[+-]?[\d.,]*\d[\d.,]*%?|[+-]?(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One text, image or vector of a query, and how much it counts.

    Example:
        engine.search(terms=[Term(text="red car"), Term(text="night", weight=-0.3)])
    """

    text: str | None = None
    """Words to look for, or to lead away from."""
    image: Any = None
    """An image, in any form that the embedder reads."""
    vector: Float[np.ndarray, " E"] | None = field(default=None, compare=False)
    """An embedding."""
    weight: float = 1.0
    """How much it counts beside the others, -10 to 10; below 0, results lie away from it."""

    def __post_init__(self) -> None:
        given = [self.text, self.image, self.vector]
        if sum(one is not None for one in given) != 1:
            raise ArgumentError("a term is one of text, image and vector, and just one of them")
        if self.text is not None:
            check_text(self.text)
        if isinstance(self.weight, bool) or not isinstance(self.weight, Real):
            raise ArgumentError(f"the weight of a term is {self.weight!r}; right is a number")
        if not math.isfinite(self.weight) or not 0 < abs(self.weight) <= MAX_WEIGHT:
            raise ArgumentError(
                f"a term has the weight {self.weight:g}; "
                f"right is -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, and not 0"
            )


def parse_terms(texts: Sequence[str], images: Sequence[str] = ()) -> list[Term]:
    """The terms that were written on a command line, as `red car`, `night:-0.3`, `cat.jpg:0.5`.

    What stands behind the last colon is the weight if it is a number, otherwise part of the text; a
    text that ends in a number of its own takes a weight behind it: `half past 12:30:1`. An image
    whose file is called so is meant with its colon.

    Raises:
        ConfigError: No term, an empty one, a weight that is none, or none that is above 0.
    """
    terms = [
        *(_parse(word, "text", _split(word)) for word in texts),
        *(
            _parse(word, "image", (word, 1.0) if os.path.exists(word) else _split(word))
            for word in images
        ),
    ]
    if not terms:
        raise ConfigError("there is nothing to search for: give a text, --image FILE, or both")
    if len(terms) == 1 and terms[0].weight != 1:
        word = [*texts, *images][0]
        raise ConfigError(
            f"a single term needs no weight, and {word!r} has {terms[0].weight:g}; "
            f"if the number belongs to it, write {word + ':1'!r}"
        )
    if all(term.weight < 0 for term in terms):
        raise ConfigError(
            "every term has a weight below 0, so there is nothing to look for: add one above 0"
        )
    return terms


def check_terms(terms: Sequence[Term]) -> None:
    """Refuse what is no list of terms, such as a text or a dict of texts and weights.

    Raises:
        SearchError: It is none.
    """
    if isinstance(terms, str | Mapping) or not all(isinstance(term, Term) for term in terms):
        raise ArgumentError(
            f"the terms are {terms!r}; right is a list such as "
            "[Term(text='red car'), Term(text='night', weight=-0.3)]"
        )


def query_vectors(vectors: Any, embed_dim: int) -> Float64[np.ndarray, "Q E"]:
    """Vectors to search for as rows of length 1; they may come with any length but 0.

    Args:
        vectors: One a query: an array, or anything that makes one.
        embed_dim: The size that the collection holds.

    Raises:
        SearchError: They are no numbers, of another size, or a row is 0, NaN or infinite.
    """
    try:
        rows = np.asarray(vectors, np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"the vectors to search for are no array of numbers; right is {embed_dim} a row"
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
    """The directions of weighted sums: of each query's first vector, its second, and so on.

    Raises:
        SearchError: Terms cancel each other out.
    """
    pairs = zip(vectors, weights, strict=True)
    total = np.sum([weight * np.asarray(part, np.float64) for part, weight in pairs], axis=0)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    if not np.all(length > 1e-6):
        raise ArgumentError("the terms point in opposite directions: nothing is left to search for")
    return (total / length).astype(np.float32)


def _split(word: str) -> tuple[str, float]:
    head, colon, tail = word.rpartition(":")
    tail = tail.strip()
    if colon and _WEIGHT.fullmatch(tail):
        return head.strip(), float(tail)
    if colon and _NEARLY.fullmatch(tail):
        raise ConfigError(
            f"the weight {tail!r} in {word!r} is no number such as 0.5 or -1; "
            f"if it belongs to the term, write {word + ':1'!r}"
        )
    return word.strip(), 1.0


def _parse(word: str, kind: str, parts: tuple[str, float]) -> Term:
    value, weight = parts
    if not value:
        raise ConfigError(f"there is nothing to search for in {word!r}")
    if not 0 < abs(weight) <= MAX_WEIGHT:
        raise ConfigError(
            f"{word!r} has the weight {weight:g}; right is -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, and "
            f"not 0; if the number belongs to the term, write {word + ':1'!r}"
        )
    return Term(text=value, weight=weight) if kind == "text" else Term(image=value, weight=weight)
