"""Words of a query that no record has: the words and labels of the collection that may be meant.

Two things are done with a word that neither the collection nor the model knows. A word one typing
error away is proposed ("Did you mean"). And a label, such as a tag or the name of a person, that
begins with the word or is one typing error away is looked up in its place: "grandm" finds the
records with "Grandma" first, and "Jorgn" those with "Jorgen". The vector of the query stays that of
the typed text.

A model knows a word that is one token to it: "cat" is never read as the name "Cate".
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from coca.search.query.query_terms import singular
from coca.search.records import Hit
from coca.search.spelling import MAX_LETTERS, WORD, is_typing_error, words_of
from coca.search.store import Collection
from coca.search.words import LABELS, is_stop_word, query_terms, texts_of

MIN_LETTERS = 4
"""Number of letters from which a word may be the beginning of a label, or a label with an error."""
MAX_WORDS = 8
"""Number of unknown words of a text that are looked up; each takes 1 to 40 ms."""
_TEXTS = (*LABELS, "caption", "generated", "metadata")


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """Words of a collection like a typed one, with the number of records that have them."""

    words: Counter[str]
    labels: Counter[str]


class Corrections:
    """Reads the typing errors of one text; each word is looked up once."""

    def __init__(self, collection: Collection, embedder: Any) -> None:
        """Read nothing yet."""
        self._collection, self._embedder = collection, embedder
        self._found: dict[str, _Neighbours | None] = {}
        self._left = MAX_WORDS

    def did_you_mean(self, text: str) -> str | None:
        """Replace unknown words by those one typing error away; None if there are none."""
        found = self.with_labels(text, self._word)
        return found if found != text else None

    def with_labels(self, text: str, best: Callable[[str, _Neighbours], str] | None = None) -> str:
        """Replace unknown words by the labels that begin with them or are one error away.

        Args:
            text: Text as typed.
            best: Chooses another word instead of a label.
        """
        best = best or self._label
        parts, end = list[str](), 0
        for match in WORD.finditer(text):
            word = match[0].casefold()
            found = self._neighbours(word)
            other = best(word, found) if found is not None else ""
            parts += [text[end : match.start()], other or match[0]]
            end = match.end()
        return "".join([*parts, text[end:]])

    def _word(self, typed: str, found: _Neighbours) -> str:
        # "grandm" is being typed where a record has "grandma", also if others have "grand".
        if any(word.startswith(typed) for word in found.words):
            return ""
        # The label is looked up in any case; another proposal would contradict the hits.
        if label := self._label(typed, found):
            return "" if label.startswith(typed) else label
        # "dogs" has the stem of "dog".
        near = [
            word
            for word in found.words
            if is_typing_error(typed, word) and word.rstrip("s") != typed.rstrip("s")
        ]
        return _most_frequent(found.words, near)

    def _label(self, typed: str, found: _Neighbours) -> str:
        near = [
            word
            for word in found.labels
            if len(typed) >= MIN_LETTERS
            and (word.startswith(typed) or is_typing_error(typed, word))
        ]
        return _most_frequent(found.labels, near)

    def _neighbours(self, typed: str) -> _Neighbours | None:
        """Look a word up; None if the model or the collection has it, or it has no neighbours."""
        if typed not in self._found:
            self._found[typed] = None
            if self._left and len(typed) <= MAX_LETTERS and not self._is_usual(typed):
                self._left -= 1
                self._found[typed] = _read(typed, self._collection.similar_words(typed))
        return self._found[typed]

    def _is_usual(self, word: str) -> bool:
        """Return whether a word is a stop word, or it or its singular is one token of the model."""
        if is_stop_word(word):
            return True
        # Other embedders need not have it; see `Predictor.leading_ids`.
        leading_ids = getattr(self._embedder, "leading_ids", None)
        if leading_ids is None:
            return False
        return any(len(leading_ids(form, 2)) == 1 for form in (word, singular(word)))


def _read(typed: str, hits: Iterable[Hit]) -> _Neighbours | None:
    words, labels = Counter[str](), Counter[str]()
    for hit in hits:
        texts = texts_of(hit)
        words.update({word for name in _TEXTS for word in words_of(texts.get(name, ""))})
        labels.update({word for name in LABELS for word in words_of(texts.get(name, ""))})
    stems = set(query_terms(typed))
    if any(not stems.isdisjoint(query_terms(word)) for word in words if word[0] == typed[0]):
        return None
    return _Neighbours(words, labels)


def _most_frequent(counts: Counter[str], words: Iterable[str]) -> str:
    """Return the most frequent word, the first in the alphabet of several; empty without any."""
    return min(words, key=lambda word: (-counts[word], word), default="")
