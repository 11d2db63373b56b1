"""How certain a generated caption is: the calibrated probability that its first noun is right.

A decoder writes a fluent sentence about any image. What else the model knows of the image decides
whether the sentence is worth showing. Three kinds of captions have one logistic function each:

    things     sigmoid(1.5 logit(m) + 2)
    people     sigmoid(11 c + 31 p - 5.4)
    others     sigmoid(13 c + 2.8 l - 2)

m is the probability of the first noun in the encoder's own classifier, the sum over its classes; c
the cosine of image and caption; p the cosine of the image and the text "people"; l the mean
log-probability of the tokens. Others are drawings and captions without a noun that the model knows.

A right noun does not make a sentence: where l is below -1.2, most captions are like "a bird in a
hot insect", and their certainty is at most .5.

The numbers are fitted to the default model by `benchmarks/certainty.py`, on the first half of 600
photos with classes, of 1,000 photos with sentences and of 500 drawings; its report has the second
halves. A model without nouns has no certainty.

Dimensions: N captions, E embedding, K classes.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from coca.predict.inputs import Caption
from coca.processing.class_words import ClassNoun, plural

SURE_NOUN = 0.5
"""Probability from which a noun may stand in for an uncertain caption."""
PEOPLE = "people"
"""Text with which images of people are compared."""
COHERENT, INCOHERENT_MOST = -1.2, 0.5
"""Mean log-probability below which a caption is rarely a sentence, and the greatest certainty of
such captions. Of 231 certain captions of the demo's photos, 22 were below; 17 made no sense."""
_DRAWN = re.compile(r"an? (drawing|picture) of\b")
_LARGEST_LOGIT = 7.0
_MOST_WORDS = 4


class Evidence(NamedTuple):
    """What the model knows of an image besides its caption, by which the caption is judged."""

    kind: str
    """`things`, `people` or `others`."""
    mass: float
    """Logit of the first noun's probability; 0 without."""
    cosine: float
    """Of image and caption."""
    people: float
    """Cosine of the image and `PEOPLE`."""
    mean: float
    """Mean log-probability of the tokens, in nats."""


WEIGHTS: dict[str, Evidence] = {
    "things": Evidence("things", mass=1.5, cosine=0.0, people=0.0, mean=0.0),
    "people": Evidence("people", mass=0.0, cosine=11.0, people=31.0, mean=0.0),
    "others": Evidence("others", mass=0.0, cosine=13.0, people=0.0, mean=2.8),
}
OFFSETS = {"things": 2.0, "people": -5.4, "others": -2.0}
"""Logit of each kind without evidence."""


def certainty_of(evidence: Evidence) -> float:
    """Return the probability that the first noun of a caption is right; see `COHERENT`."""
    kind = evidence.kind
    pairs = zip(WEIGHTS[kind][1:], evidence[1:], strict=True)
    right = 1 / (1 + math.exp(-OFFSETS[kind] - sum(weight * value for weight, value in pairs)))
    return right if evidence.mean >= COHERENT else min(right, INCOHERENT_MOST)


class CaptionJudge:
    """The nouns of a model, by which it judges its captions."""

    def __init__(self, nouns: Sequence[ClassNoun], people: Float32[np.ndarray, " E"]) -> None:
        """Index the nouns.

        Args:
            nouns: Of `class_words.json`; those without classes are words for people.
            people: Embedding of `PEOPLE`, of length 1.
        """
        self._people = people
        usual = [(it.usual, np.array(it.classes)) for it in nouns if it.usual]
        self._usual = sorted(usual, key=lambda pair: len(pair[1]))
        self._renamed = _renamed(nouns)
        self._of_people = {word for noun in nouns if not noun.classes for word in noun.words}
        self._classes: dict[str, set[int]] = {}
        for noun in nouns:
            for word in noun.words if noun.classes else ():
                for form in (word, plural(word)):
                    self._classes.setdefault(form, set()).update(noun.classes)

    def is_of_people(self, noun: str) -> bool:
        """Return whether a noun of the model is a word for people."""
        return noun in self._of_people

    def classes_of(self, noun: str) -> frozenset[int]:
        """Return the classes of a noun in the singular or plural; none if it is unknown."""
        return frozenset(self._classes.get(noun, ()))

    def nouns_in(self, text: str) -> list[str]:
        """Return the nouns of a text that the model knows: the longest match at each place."""
        tokens, found, start = re.findall(r"[\w'-]+", text.lower()), list[str](), 0
        while start < len(tokens):
            for size in range(_MOST_WORDS, 0, -1):
                words = " ".join(tokens[start : start + size])
                if words in self._classes or words in self._of_people:
                    found.append(words)
                    break
            start += size
        return found

    def evidence(
        self,
        caption: Caption,
        probabilities: Float[np.ndarray, " K"],
        *,
        cosine: float,
        people: float,
    ) -> Evidence:
        """Collect what decides about a caption.

        Args:
            caption: A generated caption.
            probabilities: Of the classes, 0 to 1.
            cosine: Of image and caption.
            people: Cosine of the image and `PEOPLE`.
        """
        mean = caption.score / (len(caption.token_ids) + 1)
        first = next(iter(self.nouns_in(caption.text)), "")
        if not first or _DRAWN.match(caption.text):
            return Evidence("others", 0.0, cosine, people, mean)
        if self.is_of_people(first):
            return Evidence("people", 0.0, cosine, people, mean)
        mass = float(probabilities[list(self.classes_of(first))].sum())
        return Evidence("things", _logit(mass), cosine, people, mean)

    def sure_noun(self, probabilities: Float[np.ndarray, " K"]) -> str:
        """Return the most special noun above `SURE_NOUN`; empty without one."""
        return next(
            (word for word, own in self._usual if probabilities[own].sum() >= SURE_NOUN), ""
        )

    def judged(
        self,
        captions: Sequence[Caption],
        probabilities: Float[np.ndarray, "N K"],
        images: Float[np.ndarray, "N E"],
        texts: Float[np.ndarray, "N E"],
    ) -> list[Caption]:
        """Set certainty and noun of captions, and the usual name in those that are only a name.

        Args:
            captions: Generated without a prompt.
            probabilities: Of the classes of each image.
            images: Embeddings of the images, of length 1 and in all dimensions.
            texts: Embeddings of the captions, as those of the images.
        """
        found, people = [], images @ self._people
        for row, caption in enumerate(captions):
            cosine = float(images[row] @ texts[row])
            evidence = self.evidence(
                caption, probabilities[row], cosine=cosine, people=float(people[row])
            )
            found.append(
                replace(
                    caption,
                    text=self._renamed.get(caption.text, caption.text),
                    certainty=certainty_of(evidence),
                    noun=self.sure_noun(probabilities[row]),
                )
            )
        return found


def _renamed(nouns: Sequence[ClassNoun]) -> dict[str, str]:
    """Return what people say in place of captions that are only a name of one class."""
    owners = Counter(word for noun in nouns for word in noun.words)
    return {
        text: noun.usual
        for noun in nouns
        if len(noun.classes) == 1 and noun.usual
        for word in noun.words
        if owners[word] == 1
        for text in (word, f"a {word}", f"an {word}")
    }


def _logit(probability: float) -> float:
    bounded = min(max(probability, 1e-12), 1 - 1e-12)
    logit = math.log(bounded / (1 - bounded))
    return min(max(logit, -_LARGEST_LOGIT), _LARGEST_LOGIT)
