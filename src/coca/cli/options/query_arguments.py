"""Query terms on a command line: `red car`, `night:-0.3`, `cat.jpg:0.5`.

The weight follows the last colon, and consecutive words without a weight are one text: `coca search
a red car`.
"""

import os
import re
import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from coca.core.errors import ConfigError
from coca.core.files.formats import PHOTO_SUFFIXES, VIDEO_SUFFIXES
from coca.search.query.query_terms import MAX_WEIGHT, Term, typed_terms

_WEIGHT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
_NEARLY = re.compile(r"[+-]?(?=[.,]*\d)[\d.,]+%?|[+-]?(inf|nan)", re.IGNORECASE)


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
    text, in which a negation is read; see `typed_terms`. A word with a weight is a term of its own.
    The name of an image file is an image.
    """
    if collections := [word for word in words if word.endswith(".db") and os.path.exists(word)]:
        raise ConfigError(f"{collections[0]} is a collection: use --uri {collections[0]}")
    given: list[tuple[str, Term]] = []
    for kind, group in groupby(words, lambda word: _kind_of(word, words)):
        if kind == "text":
            text = " ".join(group)
            _parse(text, "text", (text.strip(), 1.0))
            given += [(text, term) for term in typed_terms(text.strip())]
        elif kind == "image":
            given += _terms_of_options((), list(group))
        else:
            given += _terms_of_options(list(group), ())
    return _checked([*given, *_terms_of_options(texts, images)])


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
        raise ConfigError(
            "there is nothing to search for: give a text, --image FILE, or filters alone, such as "
            "--during 2019 or --tag NAME"
        )
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
