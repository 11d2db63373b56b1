"""Scores of captions against references, as the COCO caption evaluation counts them.

Captions are lists of words, as `coca.metrics.ptb` cuts them. A word counts by its form alone, so
that no score knows that a dog is an animal. Each function takes a whole corpus: N candidates and
for each its references, in the same order.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr-D (Vedantam et al. 2015) in the variants
of pycocoevalcap 1.2, whose numbers papers report.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Words: TypeAlias = Sequence[str]
"""A caption cut into words."""

Run: TypeAlias = tuple[str, ...]
"""Words that stand one after the other: an n-gram."""

ROUGE_BETA = 1.2
"""How much more recall counts than precision."""

CIDER_SIGMA = 6.0
"""Standard deviation, in words, of the bell curve over differences in length."""

_LENGTHS = range(1, 5)


def caption_scores(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]]
) -> dict[str, float]:
    """All scores of a corpus: `cider`, `bleu@1` to `bleu@4`, `rouge_l`.

    CIDEr is 0 to 10, where people reach about 1; the others are 0 to 1.

    Raises:
        ValueError: There is no candidate, their counts differ, or one has no reference.
    """
    bleus = {
        f"bleu@{n}": value for n, value in zip(_LENGTHS, bleu(candidates, references), strict=True)
    }
    return {
        "cider": float(cider(candidates, references).mean()),
        **bleus,
        "rouge_l": float(rouge_l(candidates, references).mean()),
    }


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """BLEU-1 to BLEU-4 of the whole corpus, 0 to 1.

    Matches and lengths are summed over all candidates before anything is divided; the reference
    length is that of each candidate's nearest reference, the shorter of two equally near.

    Raises:
        ValueError: As `caption_scores`.
    """
    _check(candidates, references)
    matched, made = np.zeros(len(_LENGTHS)), np.zeros(len(_LENGTHS))
    length = nearest = 0
    for candidate, group in zip(candidates, references, strict=True):
        length += len(candidate)
        nearest += min((abs(len(it) - len(candidate)), len(it)) for it in group)[1]
        for place, n in enumerate(_LENGTHS):
            found, most = _runs(candidate, n), Counter[Run]()
            for reference in group:
                most |= _runs(reference, n)
            matched[place] += (found & most).total()
            made[place] += found.total()
    # The two small numbers are part of the official score: they decide it where nothing matches.
    precision = (matched + 1e-15) / (made + 1e-9)
    means = np.cumprod(precision) ** (1 / np.array(_LENGTHS))
    ratio = (length + 1e-15) / (nearest + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [float(value) for value in brevity * means]


def rouge_l(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]]
) -> Float[ndarray, " N"]:
    """ROUGE-L of each candidate, 0 to 1: how long a common subsequence of words it has.

    Best precision and best recall may come from different references.

    Raises:
        ValueError: As `caption_scores`.
    """
    _check(candidates, references)
    return np.array(
        [
            _rouge_l(candidate, group)
            for candidate, group in zip(candidates, references, strict=True)
        ]
    )


def cider(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]]
) -> Float[ndarray, " N"]:
    """CIDEr-D of each candidate, 0 to 10.

    The likeness of its runs of 1 to 4 words to those of each reference, where a run weighs the
    more, the fewer images have it in their references. A score therefore depends on the whole
    corpus, and a single image scores 0.

    Raises:
        ValueError: As `caption_scores`.
    """
    _check(candidates, references)
    rarity = _Rarity(references)
    return np.array(
        [
            10 * np.mean([_likeness(rarity, candidate, reference) for reference in group])
            for candidate, group in zip(candidates, references, strict=True)
        ]
    )


class _Rarity:
    """What each run of words weighs, by how many images have it in a reference."""

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        self._pictures: Counter[Run] = Counter()
        self._log_all = math.log(len(references))
        for group in references:
            self._pictures.update({run for it in group for n in _LENGTHS for run in _runs(it, n)})

    def weigh(self, words: Words, n: int) -> dict[Run, float]:
        """Count times weight of each run of `n` words."""
        return {
            run: count * (self._log_all - math.log(max(1, self._pictures[run])))
            for run, count in _runs(words, n).items()
        }


def _likeness(rarity: _Rarity, candidate: Words, reference: Words) -> float:
    """Mean over lengths of run of the clipped cosine, less where the lengths differ; 0 to 1."""
    cosines = []
    for n in _LENGTHS:
        one, other = rarity.weigh(candidate, n), rarity.weigh(reference, n)
        shared = sum(min(one[run], other[run]) * other[run] for run in one.keys() & other.keys())
        norms = math.hypot(*one.values()) * math.hypot(*other.values())
        cosines.append(shared / norms if norms else 0.0)
    # The official score counts lengths in pairs of words.
    apart = max(1, len(candidate)) - max(1, len(reference))
    return float(np.mean(cosines)) * math.exp(-(apart**2) / (2 * CIDER_SIGMA**2))


def _rouge_l(candidate: Words, group: Sequence[Words]) -> float:
    common = [_longest_common(candidate, reference) for reference in group]
    precision = max(common) / max(1, len(candidate))
    recall = max(found / max(1, len(it)) for found, it in zip(common, group, strict=True))
    if not common or not precision:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _longest_common(one: Words, other: Words) -> int:
    """Words of the longest common subsequence."""
    best = [0] * (len(other) + 1)
    for word in one:
        before = 0  # the best without `word` and without the other's word at `place`
        for place, it in enumerate(other, start=1):
            before, best[place] = (
                best[place],
                before + 1 if it == word else max(best[place], best[place - 1]),
            )
    return best[-1]


def _runs(words: Words, n: int) -> Counter[Run]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _check(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if not candidates:
        raise ValueError("there is no caption to score")
    if len(candidates) != len(references):
        raise ValueError(
            f"there are {len(candidates)} captions but references for {len(references)} images"
        )
    for place, group in enumerate(references):
        if not group:
            raise ValueError(f"caption {place} has no reference to be compared with")
