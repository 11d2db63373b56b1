r"""Add words of a second language to word vectors, by captions of the same photos.

    python recipes/data/translated_words.py runs/both.safetensors runs/word_vectors.safetensors \
        --pairs text_only.jsonl --language de

A row of `--pairs` is a JSON object with captions of one photo: `en`, a list in English, and a list
in a field that is called like the language. Each of the most frequent words of the language gets
the weighted mean of the vectors of the English words that occur with the same photos. So a model
whose token embeddings are mapped from these vectors understands much of the language before it is
trained: "hund" starts at "dog".

Dimensions: N new words, M English words, G numbers per vector.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.processing.caption_words import words_of
from word_vectors import WordVectors

CANDIDATES = 3
"""English words whose vectors a new word gets."""
SHARPNESS = 10.0
"""A Dice coefficient that is larger by 0.1 has 2.7 times the weight."""


def read_pairs(path: Path, language: str) -> list[tuple[set[str], set[str]]]:
    """Read the words of each photo's English captions, and of those in the language."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(_words(row["en"]), _words(row[language])) for row in rows]


def frequent(pairs: Sequence[tuple[set[str], set[str]]], part: int, count: int) -> list[str]:
    """List the `count` words of one side that occur with the most photos."""
    counts = Counter(word for pair in pairs for word in pair[part])
    return [word for word, _ in counts.most_common(count)]


def dice(
    pairs: Sequence[tuple[set[str], set[str]]], english: Sequence[str], new: Sequence[str]
) -> Float[ndarray, "N M"]:
    """Compute the Dice coefficient of each new word, a row, and each English word, 0 to 1.

    It is twice the number of photos with both, over the sum of the photos with either.
    """
    rows, columns = ({word: i for i, word in enumerate(some)} for some in (new, english))
    both = np.zeros((len(new), len(english)), np.float32)
    of_new, of_english = np.zeros(len(new)), np.zeros(len(english))
    for own, other in pairs:
        row = [rows[word] for word in other if word in rows]
        column = [columns[word] for word in own if word in columns]
        both[np.ix_(row, column)] += 1
        of_new[row] += 1
        of_english[column] += 1
    return 2 * both / (of_new[:, None] + of_english)


def translated(
    known: WordVectors, pairs: Sequence[tuple[set[str], set[str]]], count: int
) -> WordVectors:
    """Add the most frequent words of the second language to the vectors, after all others."""
    row_of = {word: row for row, word in enumerate(known.words)}
    # A German "hut" is a hat: a word that is frequent in the captions of one language only is
    # of that language, even if the list of English words contains it.
    seen = Counter(word for own, _ in pairs for word in own)
    uses = Counter(word for _, other in pairs for word in other)
    new = [word for word in frequent(pairs, 1, count) if uses[word] > 5 * seen[word]]
    english = [word for word in frequent(pairs, 0, 2 * count) if word in row_of]
    scores = dice(pairs, english, new)
    best = np.argsort(-scores, axis=1)[:, :CANDIDATES]
    weights = np.exp(SHARPNESS * np.take_along_axis(scores, best, axis=1))
    weights /= weights.sum(axis=1, keepdims=True)
    table = known.vectors[[row_of[word] for word in english]]
    added = (weights[..., None] * table[best]).sum(axis=1).astype(np.float32)
    chosen = set(new)
    kept = [row for row, word in enumerate(known.words) if word not in chosen]
    words = (*(known.words[row] for row in kept), *new)
    return WordVectors(words, np.concatenate([known.vectors[kept], added]))


def _words(captions: Sequence[str]) -> set[str]:
    return set(words_of(" ".join(captions).lower()))


def main() -> None:
    """Write the file as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="safetensors file of all words")
    parser.add_argument("vectors", type=Path, help="file of English words and their vectors")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines")
    parser.add_argument("--language", required=True, help="field of the captions, such as `de`")
    parser.add_argument("--count", type=int, default=8000, help="default: %(default)s")
    given = parser.parse_args()
    pairs = read_pairs(given.pairs, given.language)
    both = translated(WordVectors.load(given.vectors), pairs, given.count)
    both.save(given.out)
    print(f"{given.out}: {len(both.words):,} words")


if __name__ == "__main__":
    main()
