"""Caption metrics on PTB tokens: BLEU, ROUGE-L and CIDEr.

It reproduces pycocoevalcap 1.2 with the Stanford tokenizer 3.4.1: lower case, `do n't` for "don't",
no punctuation. Its oddities are kept: `!!` and brackets (`-lrb-`) remain as words. It is limited to
captions: telephone numbers with spaces and smileys are split differently, and a single letter keeps
its full stop before any word.

Captions are lists of words from `ptb_tokens`. Words are compared by form, without synonyms. Each
function takes a whole corpus: N candidates and the references of each, in the same order.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr-D (Vedantam et al. 2015) in the variants
of pycocoevalcap 1.2, whose numbers papers report.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy import ndarray

# Penn Treebank tokenizer, the input of caption metrics.


# A full stop after these belongs to them; after any other word it ends a sentence.
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig
    bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec
    ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul
    jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms
    msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte ptes pty
    ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel
    tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
"""

_DROPPED = frozenset(("'", "`", '"', "…", ".", "?", "!", ",", ":", "-", ";"))

_REWRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "€": "$", "£": "#", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4",
}  # fmt: skip

# Curly quotes become straight; dashes get spaces, since they separate words, unlike hyphens.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("\u2013\u2014", " - ")
)

_WORD = re.compile(
    rf"""
      https?://\S+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                # addresses
    | n't\b | '(?:s|re|ve|ll|m|d|em|n'|\d\ds)(?!\w)              # what a word was cut before
    | 't(?=is\b|was\b) | y'(?=all\b) | can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b)
    | gim(?=me\b) | lem(?=me\b)
    | (?:[a-z]\.)+[a-z]?(?!\w)\.?                                # U.S. and initials
    | (?:{"|".join(_ABBREVIATIONS.split())})\.(?!\w) | ph\.d\.
    | (?:art|ca|figs?|nos?|op|pp|prop)\.(?=\s*\d)
    | \d+(?::\d+)+ | [+-]?(?:\d+(?:[.,]\d+)*|\.\d+)(?![\w/-])    # times and numbers
    | [od]'[a-z]+ | ma'am | (?-i:[A-Z]+(?:&[A-Z]+)+)
    | \w+?(?=n't\b) | (?:[\#@](?=[a-z]))?\w+(?:[-/.]\w+)*
    | [!?]+ | \*+ | \S
    """,
    re.IGNORECASE | re.VERBOSE,
)


def words(sentence: str) -> list[str]:
    """Tokenize a sentence.

    >>> words("A dog's ball isn't here.")
    ['a', 'dog', "'s", 'ball', 'is', "n't", 'here']
    """
    found = _WORD.findall(sentence.translate(_PLAIN))
    return [_REWRITTEN.get(word, word.lower()) for word in found if word not in _DROPPED]


# Captioning metrics of the COCO caption evaluation: BLEU, ROUGE-L and CIDEr-D.


Words: TypeAlias = Sequence[str]
"""A tokenized caption."""

NGram: TypeAlias = tuple[str, ...]
"""Consecutive words."""

ROUGE_BETA = 1.2
"""Weight of recall relative to precision."""

CIDER_SIGMA = 6.0
"""Standard deviation of the Gaussian length penalty, words."""

_LENGTHS = range(1, 5)


def caption_scores(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]]
) -> dict[str, float]:
    """Compute all metrics of a corpus: `cider`, `bleu@1` to `bleu@4`, `rouge_l`.

    CIDEr is 0 to 10, and about 1 for human captions; the others are 0 to 1.

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
    """Compute corpus BLEU-1 to BLEU-4, 0 to 1.

    Matches and lengths are summed over all candidates before division. The reference length is that
    of each candidate's closest reference; of two equally close references, the shorter.

    Raises:
        ValueError: As `caption_scores`.
    """
    _check(candidates, references)
    matched, made = np.zeros(len(_LENGTHS)), np.zeros(len(_LENGTHS))
    length = nearest = 0
    for candidate, group in zip(candidates, references, strict=True):
        length += len(candidate)
        nearest += min((abs(len(it) - len(candidate)), len(it)) for it in group)[1]
        for index, n in enumerate(_LENGTHS):
            found, allowed = _ngrams(candidate, n), Counter[NGram]()
            for reference in group:
                allowed |= _ngrams(reference, n)
            matched[index] += (found & allowed).total()
            made[index] += found.total()
    # The two constants are part of the official score: they determine it if nothing matches.
    precision = (matched + 1e-15) / (made + 1e-9)
    means = np.cumprod(precision) ** (1 / np.array(_LENGTHS))
    ratio = (length + 1e-15) / (nearest + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [float(value) for value in brevity * means]


def rouge_l(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]]
) -> Float[ndarray, " N"]:
    """Compute ROUGE-L of each candidate, 0 to 1: F-score of the longest common subsequence.

    The best precision and the best recall may come from different references.

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
    """Compute CIDEr-D of each candidate, 0 to 10.

    A score depends on the whole corpus, and a single image scores 0; see `CiderD`.

    Raises:
        ValueError: As `caption_scores`.
    """
    _check(candidates, references)
    scorer = CiderD(references)
    return np.array([scorer.score(image, it) for image, it in enumerate(candidates)])


class CiderD:
    """CIDEr-D of captions against the references of images.

    The score is the clipped TF-IDF cosine similarity of n-grams (n = 1 to 4) to each reference. The
    IDF counts the images whose references contain the n-gram.
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        """Weigh the n-grams of the references of each image."""
        self._documents: Counter[NGram] = Counter()
        self._log_all = math.log(len(references))
        for group in references:
            self._documents.update(
                {ngram for it in group for n in _LENGTHS for ngram in _ngrams(it, n)}
            )
        self._weighed = [[self._weigh(it) for it in group] for group in references]

    def score(self, image: int, candidate: Words) -> float:
        """Compute the mean over the references of an image, 0 to 10."""
        found, weighed = self._weigh(candidate), self._weighed[image]
        return 10 * sum(_similarity(found, it) for it in weighed) / len(weighed)

    def _weigh(self, words: Words) -> "_Weighed":
        """Compute TF-IDF of the n-grams of each length."""
        weights = [
            {
                ngram: count * (self._log_all - math.log(max(1, self._documents[ngram])))
                for ngram, count in _ngrams(words, n).items()
            }
            for n in _LENGTHS
        ]
        return _Weighed(weights, [math.hypot(*it.values()) for it in weights], len(words))


class _Weighed(NamedTuple):
    """TF-IDF of the n-grams of a caption."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int
    """Words."""


def _similarity(candidate: _Weighed, reference: _Weighed) -> float:
    """Average the clipped cosine over n, times the length penalty; 0 to 1."""
    cosines = []
    for one, other, *norms in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        shared = sum(min(one[it], other[it]) * other[it] for it in one.keys() & other.keys())
        cosines.append(shared / math.prod(norms) if math.prod(norms) else 0.0)
    # The official score counts lengths in bigrams.
    apart = max(1, candidate.length) - max(1, reference.length)
    return float(np.mean(cosines)) * math.exp(-(apart**2) / (2 * CIDER_SIGMA**2))


def _rouge_l(candidate: Words, group: Sequence[Words]) -> float:
    common = [_longest_common(candidate, reference) for reference in group]
    precision = max(common) / max(1, len(candidate))
    recall = max(found / max(1, len(it)) for found, it in zip(common, group, strict=True))
    if not common or not precision:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _longest_common(one: Words, other: Words) -> int:
    """Compute the length of the longest common subsequence, words."""
    best = [0] * (len(other) + 1)
    for word in one:
        before = 0  # the best without `word` and without the word at `index` of `other`
        for index, it in enumerate(other, start=1):
            before, best[index] = (
                best[index],
                before + 1 if it == word else max(best[index], best[index - 1]),
            )
    return best[-1]


def _ngrams(words: Words, n: int) -> Counter[NGram]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _check(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if not candidates:
        raise ValueError("there is no caption to score")
    if len(candidates) != len(references):
        raise ValueError(
            f"there are {len(candidates)} captions but references for {len(references)} images"
        )
    for index, group in enumerate(references):
        if not group:
            raise ValueError(f"caption {index} has no reference to be compared with")
