"""Captions that name the class of an image, where the encoder's own classifier is sure of it.

`class_words.json` in a model folder is a list of nouns: words, and the classes that they name, such
as all breeds for "dog". The probability of a noun is the sum over its classes. Beam search treats
the words of an image by three rules:

1. A word whose noun has more than `SURE` gains `BONUS` nats, once in a caption.
2. If there is such a word, one whose nouns all have less than `RULED_OUT` costs `PENALTY` nats,
   until a caption has a word of rule 1 or of a noun without classes. Nouns without classes are
   words for people: a classifier of things and animals does not see them, and "a girl in a shirt"
   may be on a swing.
3. Elsewhere a word whose nouns all have less than `DOUBTED` costs `DOUBT` nats. Without this cost,
   half of the things that captions name after their first are not in the photo.

A word of several tokens gains with its first token, and loses that gain if another word follows.

Dimensions: I images, K classes, N nouns, W words as tokens, k captions of an image, t tokens after
their prompts, V vocabulary.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64
from numpy import ndarray

from coca.core.errors import ModelError
from coca.core.files.atomic import read_model_json, write_atomic

CLASS_WORDS_FILE = "class_words.json"

SURE, RULED_OUT, DOUBTED = 0.5, 0.02, 0.05
"""Probabilities of a noun, 0 to 1."""
BONUS, PENALTY, DOUBT = 4.0, 3.0, 1.5
"""Nats; the first two were chosen by the captions of 300 photos, the last by those of 1,000; see
benchmarks/lab-notes.md."""
TYPICAL_LENGTH = 10.0
"""Tokens of a caption."""
_MAX_TOKENS = 8
"""Longer words are left out."""


@dataclass(frozen=True)
class ClassNoun:
    """Words for the same classes."""

    words: tuple[str, ...]
    """Words of any number of parts, in the singular."""
    classes: tuple[int, ...] = ()
    """Indices of the classes; none for people."""
    usual: str = ""
    """What people call such a thing, with its article, as "a hair dryer"; empty if they use none of
    the words alone."""


def load_nouns(path: Path) -> tuple[ClassNoun, ...]:
    """Load a file that `save_nouns` wrote; empty if the file is missing."""
    if not path.is_file():
        return ()
    try:
        rows = read_model_json(path)
        return tuple(
            ClassNoun(tuple(row["words"]), tuple(row["classes"]), row.get("usual", ""))
            for row in rows
        )
    except (TypeError, KeyError) as error:
        raise ModelError(
            f"{path} is not a list of nouns, each with `words` and `classes`: {error!r}"
        ) from None


def save_nouns(nouns: Iterable[ClassNoun], path: Path) -> None:
    """Write `class_words.json`."""
    rows = [json.dumps(asdict(noun), ensure_ascii=False) for noun in nouns]
    write_atomic(path, ("[" + ",\n".join(rows) + "]\n").encode())


def plural(word: str) -> str:
    """Return the regular plural of an English noun."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


LEAST_SEEN = 0.1
"""Probability from which an image has a noun."""


class SeenNouns:
    """The nouns that the encoder's own classifier sees in images."""

    def __init__(self, nouns: Iterable[ClassNoun]) -> None:
        """Index the nouns that have classes."""
        classes: dict[str, set[int]] = defaultdict(set)
        for noun in nouns:
            for word in noun.words if noun.classes else ():
                classes[word].update(noun.classes)
        self._words = list(classes)
        self._classes = np.array([own for some in classes.values() for own in sorted(some)])
        sizes = [len(some) for some in classes.values()]
        self._starts = np.cumsum([0, *sizes])[:-1]

    def of(self, probabilities: Float[ndarray, "I K"]) -> list[dict[str, int]]:
        """Return the nouns of each image, the most probable first, with percentages.

        The probability of a noun is the sum over its classes, so that a photo of a beagle has
        "beagle", "dog" and "animal". Nouns below `LEAST_SEEN` are left out.
        """
        if not self._words:
            return [{} for _ in probabilities]
        masses = np.add.reduceat(probabilities[:, self._classes], self._starts, axis=1)
        found = []
        for row in np.minimum(masses, 1.0):
            seen = sorted(np.flatnonzero(row >= LEAST_SEEN).tolist(), key=lambda it: -row[it])
            found.append({self._words[it]: int(100 * row[it]) for it in seen})
        return found


class ClassWords:
    """Words of nouns in singular and plural, as tokens of one model."""

    def __init__(
        self,
        nouns: Sequence[ClassNoun],
        words: Iterable[str],
        *,
        encode: Callable[[str, int], list[int]],
    ) -> None:
        """Encode the nouns, without those that have a part that is not among `words`."""
        known = frozenset(words)
        nouns_of: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for number, noun in enumerate(nouns):
            for word in noun.words:
                for form in (word, plural(word)):
                    if known.issuperset(form.split()):
                        nouns_of[tuple(encode(form, _MAX_TOKENS + 1))].add(number)
        short = [ids for ids in nouns_of if len(ids) <= _MAX_TOKENS]
        self.rows = {ids: row for row, ids in enumerate(short)}
        """Number of each word."""
        self.longest = max(map(len, self.rows), default=0)
        """Most tokens of a word."""
        self.next: dict[tuple[int, ...], list[tuple[int, int, bool]]] = defaultdict(list)
        """By the first tokens of words: next token, number of the word, whether it is the last."""
        for ids, row in self.rows.items():
            for count, token in enumerate(ids):
                self.next[ids[:count]].append((token, row, count + 1 == len(ids)))
        self._nouns = [np.array(sorted(nouns_of[ids])) for ids in self.rows]
        self._classes = [np.array(noun.classes, np.int64) for noun in nouns]

    def guide(self, probabilities: Float[ndarray, "I K"], *, width: int) -> "ClassGuide | None":
        """Return the guide of the captions of some images; None without words.

        Args:
            probabilities: Of the classes, 0 to 1.
            width: Number of logits.
        """
        if not self.rows:
            return None
        masses = np.stack([probabilities[:, own].sum(axis=1) for own in self._classes], axis=1)
        masses[:, [len(own) == 0 for own in self._classes]] = np.nan
        best = np.stack([masses[:, own].max(axis=1) for own in self._nouns], axis=1)
        return ClassGuide(self, best, width)


def guided_rank(total: float, gained: float, length: float, length_penalty: float) -> float:
    """Return the rank of a caption: gains and costs count as in one of `TYPICAL_LENGTH` tokens.

    Divided by the own length, they would favour the shortest caption that has the word.

    Args:
        total: Log-probability.
        gained: Gains without costs.
        length: Tokens, [EOS] included.
        length_penalty: As of `GenerationConfig`.
    """
    return total / length**length_penalty + gained / TYPICAL_LENGTH**length_penalty


class ClassGuide:
    """What each next token gains or costs in the captions of a batch of images."""

    def __init__(self, words: ClassWords, best: Float[ndarray, "I W"], width: int) -> None:
        """Begin the captions.

        Args:
            words: Of the model.
            best: Greatest probability of each word's nouns; NaN for people.
            width: Number of logits.
        """
        self._words, self._wanted = words, best > SURE
        self._is_of_people = np.isnan(best)
        self._doubts = DOUBT * (best < DOUBTED).astype(np.float32)
        ruled_out = (best < RULED_OUT) & self._wanted.any(axis=1, keepdims=True)
        self._costs = np.where(ruled_out, np.float32(PENALTY), self._doubts)
        # Of words of one token, and of the first tokens of others.
        self._first_gains = np.zeros((len(best), width), np.float32)
        self._first_costs, self._first_doubts = np.zeros((2, len(best), width), np.float32)
        for token, row, is_last in words.next[()]:
            self._first_gains[self._wanted[:, row], token] = BONUS
            if is_last:
                self._first_costs[:, token] = self._costs[:, row]
                self._first_doubts[:, token] = self._doubts[:, row]

    def keep(self, left: Sequence[int]) -> None:
        """Keep some of the images, by their positions."""
        for name, value in vars(self).items():
            if name != "_words":
                setattr(self, name, value[left])

    def adjustments(self, generated: Int64[ndarray, "I k t"]) -> Float32[ndarray, "I k V"]:
        """Return what is added to the log-probabilities of the next tokens."""
        found = np.empty((*generated.shape[:2], self._first_gains.shape[1]), np.float32)
        for image, branches in enumerate(generated.tolist()):
            for branch, ids in enumerate(branches):
                found[image, branch] = self._adjustment(image, tuple(ids))
        return found

    def _adjustment(self, image: int, ids: tuple[int, ...]) -> Float32[ndarray, " V"]:
        longest, wanted = self._words.longest, self._wanted[image]
        runs = (
            ids[start:end]
            for start in range(len(ids))
            for end in range(start + 1, min(start + longest, len(ids)) + 1)
        )
        present = [self._words.rows[run] for run in runs if run in self._words.rows]
        has_wanted = wanted[present].any()
        if has_wanted or self._is_of_people[image, present].any():
            word_costs, costs = self._doubts[image], self._first_doubts[image].copy()
        else:
            word_costs, costs = self._costs[image], self._first_costs[image].copy()
        gains, is_begun = self._first_gains[image] * (not has_wanted), False
        for count in range(1, min(longest, len(ids) + 1)):
            for token, row, is_last in self._words.next.get(ids[-count:], ()):
                if wanted[row] and not has_wanted:
                    gains[token], is_begun = BONUS, True
                elif is_last:
                    costs[token] = max(costs[token], word_costs[row])
        return gains - costs - BONUS * is_begun
