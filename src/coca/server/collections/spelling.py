"""Corrections of typing errors in queries, from the words of a collection."""

import re
from collections.abc import Iterator, Mapping

_WORD = re.compile(r"[^\W\d_]{3,}")
_LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß"
_LONG = 5
"""Number of letters from which a letter may be another one or be missing: a shorter word with such
a neighbour is rather one of another language, as "Hund" is next to "hand"."""


def words_of(text: str) -> list[str]:
    """Return the words of a text of at least three letters, case-folded."""
    return [word.casefold() for word in _WORD.findall(text)]


def corrected(text: str, words: Mapping[str, int]) -> str | None:
    """Replace the unknown words of a query that are one typing error away from a known word.

    Args:
        text: The query.
        words: The known words, see `words_of`, with the number of their occurrences.

    Returns:
        The corrected query; None if no word is replaced.
    """

    def known(match: re.Match[str]) -> str:
        word = match[0].casefold()
        # "hors" is being typed, and "dogs" has the stem of "dog".
        near = [
            other
            for other in _one_error_away(word)
            if other in words
            and not other.startswith(word)
            and other.rstrip("s") != word.rstrip("s")
        ]
        return match[0] if word in words or not near else max(near, key=words.__getitem__)

    found = _WORD.sub(known, text)
    return found if found != text else None


def _one_error_away(word: str) -> Iterator[str]:
    """Iterate over words with two letters exchanged, or one letter more, less or another."""
    for at in range(len(word)):
        start, end = word[:at], word[at:]
        if len(end) > 1:
            yield f"{start}{end[1]}{end[0]}{end[2:]}"
        if len(word) >= _LONG - 1:
            yield start + end[1:]
        if len(word) >= _LONG:
            for letter in _LETTERS:
                yield start + letter + end
                yield start + letter + end[1:]
