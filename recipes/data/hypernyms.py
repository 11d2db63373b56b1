"""Write the hypernyms of ImageNet's 1,000 classes that a person would type, by WordNet 3.1.

    python recipes/data/word_vectors.py runs/word_vectors.safetensors
    python recipes/data/hypernyms.py runs/hypernyms.json --vectors runs/word_vectors.safetensors

A user types "dog" or "boat", and no class has these names. A noun is a word, or several with the
same classes, that WordNet has above a class, or that `own_nouns.json` adds because a person expects
it there: "plane" above a warplane. ImageNet's ids are those of WordNet 3.0, so a class is found by
its words and gloss.

Also a noun: a name that several classes share, such as "crane".

Which words count: single words among the first of the word vectors, which are by frequency, and
compounds of such words, both without the abstract ones that `own_nouns.json` lists ("entity",
"commodity"). A word of several senses gets the classes below each sense that is above a class and
is at least a tenth of its use as a noun. So a "bat" is none of the classes, a "crane" is a bird and
a machine, and a "toy" is not a dog. For the words of `rare_senses`, such as "seal" and
"instrument", all senses count.

The file has two tables. `classes[i]` lists pairs `[noun, depth]` of class `i` in the order of
ImageNet; `depth` is the number of steps to the noun, 1 for a parent, and 0 for a word that is a
name of the class itself and also above other classes. `nouns[n]` has `words`, the most frequent
first, `german`, from `german_nouns.json`, and `classes`, the indices of all classes below.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from coca.core.errors import DataError
from coca.core.files.atomic import write_atomic
from coca.model.encoders.backbone import IMAGENET_CLASSES, import_timm
from word_vectors import WordVectors
from wordnet import Synset, WordNet, wordnet

Depths = dict[int, int]
"""The smallest number of steps to each class below, by its index."""

OWN_NOUNS = Path(__file__).parent / "own_nouns.json"
GERMAN_NOUNS = Path(__file__).parent / "german_nouns.json"
WORD_RANK, PART_RANK = 80_000, 30_000
"""Numbers of frequent words among which single words and parts of compounds are."""
SENSE_FRACTION = 0.1
"""Smallest fraction of a word's use as a noun in a sense that counts."""


@dataclass(frozen=True)
class ClassText:
    """Names and gloss of a class."""

    names: tuple[str, ...]
    gloss: str


@dataclass(frozen=True)
class Noun:
    """Words above the same classes."""

    words: tuple[str, ...]
    """The most frequent word first."""
    german: tuple[str, ...]
    depths: Depths


@dataclass(frozen=True)
class OwnNouns:
    """Corrections of WordNet."""

    dropped: frozenset[str]
    """Words whose senses in WordNet do not count: abstract, technical or misleading ones."""
    rare_senses: frozenset[str]
    """Words of which all senses count."""
    added: dict[str, tuple[str, ...]]
    """Words with the classes, by any name, or the nouns that a person expects below them."""
    alone: frozenset[str] = frozenset()
    """Words above several classes that people use alone; see `class_words.py`."""
    called: dict[str, str] = field(default_factory=dict)
    """What people call classes whose name in CLIP says more."""

    @classmethod
    def load(cls, path: Path = OWN_NOUNS) -> "OwnNouns":
        """Load the file; words of the lists are separated by commas."""
        data = json.loads(path.read_text(encoding="utf-8"))
        lists = [
            frozenset(word.strip() for line in data[key] for word in line.split(","))
            for key in ("dropped", "rare_senses", "alone")
        ]
        added = {
            word: tuple(target.strip() for target in targets.split(","))
            for word, targets in data["added"].items()
        }
        return cls(lists[0], lists[1], added, lists[2], data["called"])


def imagenet_classes() -> list[ClassText]:
    """Return the classes in the order of ImageNet's classifiers."""
    info = import_timm("timm.data").ImageNetInfo()
    classes = []
    for number in range(IMAGENET_CLASSES):
        names = info.index_to_description(number)
        gloss = info.index_to_description(number, detailed=True).removeprefix(f"{names}: ")
        classes.append(ClassText(tuple(name.strip().lower() for name in names.split(",")), gloss))
    return classes


def class_synsets(classes: Sequence[ClassText], nouns: Mapping[str, Synset]) -> list[str]:
    """Find the synset of each class: the one with the most similar words and gloss.

    Raises:
        DataError: No synset is similar, or two classes have the same.
    """
    by_word: dict[str, list[str]] = defaultdict(list)
    for synset, noun in nouns.items():
        for word in noun.words:
            by_word[word].append(synset)

    def similarity(entry: ClassText, synset: str) -> float:
        own, other = set(entry.names), set(nouns[synset].words)
        gloss = SequenceMatcher(None, nouns[synset].gloss, entry.gloss).ratio()
        return len(own & other) / len(own | other) + gloss

    found: dict[str, ClassText] = {}
    for entry in classes:
        candidates = {synset for name in entry.names for synset in by_word[name]}
        best = max(sorted(candidates), key=lambda it: similarity(entry, it), default="")
        if not best or similarity(entry, best) < 1 or best in found:
            raise DataError(
                f"the class {', '.join(entry.names)!r} was not found in WordNet; expected names "
                "and glosses of ImageNet, and WordNet 3.1"
            )
        found[best] = entry
    return list(found)


def senses_above(
    synsets: Sequence[str], nouns: Mapping[str, Synset]
) -> dict[str, dict[str, Depths]]:
    """Return words, their synsets above classes, and the classes below each.

    Args:
        synsets: The synset of each class.
        nouns: All synsets.
    """
    found: dict[str, dict[str, Depths]] = defaultdict(lambda: defaultdict(dict))
    for number, start in enumerate(synsets):
        depths = {start: 0}
        queue = [start]
        for synset in queue:
            new = [it for it in nouns[synset].hypernyms if it not in depths]
            depths |= dict.fromkeys(new, depths[synset] + 1)
            queue += new
        for synset in queue[1:]:
            for word in nouns[synset].words:
                found[word][synset][number] = depths[synset]
    return {word: dict(senses) for word, senses in found.items()}


def typed_nouns(
    classes: Sequence[ClassText],
    source: WordNet,
    words: Sequence[str],
    own: OwnNouns,
    german: Mapping[str, Sequence[str]],
) -> list[Noun]:
    """Select the nouns above classes that a person would type, those with the most classes first.

    Args:
        classes: Names and glosses, in the order of their indices.
        source: WordNet.
        words: Words by descending frequency.
        own: Corrections.
        german: German words of English ones.

    Raises:
        DataError: An added or a translated word refers to nothing.
    """
    rank = {word: number for number, word in enumerate(words[:WORD_RANK])}
    names: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(classes):
        for name in entry.names:
            names[name].append(number)

    uses: dict[tuple[str, str], float] = {}
    totals: dict[str, float] = defaultdict(float)
    for sense in source.senses:
        if sense.is_noun:
            uses[sense.word, sense.synset] = sense.use
            totals[sense.word] += sense.use
    found: dict[str, Depths] = {}
    for word, senses in senses_above(class_synsets(classes, source.nouns), source.nouns).items():
        if word not in own.dropped and _is_frequent(word, rank):
            depths = [
                below
                for synset, below in senses.items()
                if word in own.rare_senses
                or uses.get((word, synset), 0) >= SENSE_FRACTION * totals[word]
            ]
            if depths:
                found[word] = _nearest(depths)

    for name, below in names.items():
        if len(below) > 1 and name not in own.dropped and _is_frequent(name, rank):
            found.setdefault(name, {})
    for word, targets in own.added.items():
        steps = [found.get(word, {})]
        for target in targets:
            if target not in names and target not in found:
                raise DataError(f"{target!r} below {word!r} is neither a class nor a noun")
            steps.append(dict.fromkeys(names.get(target, ()), 1))
            steps.append({number: depth + 1 for number, depth in found.get(target, {}).items()})
        found[word] = _nearest(steps)
    for word, depths_of_word in found.items():
        depths_of_word |= dict.fromkeys(names.get(word, ()), 0)

    same: dict[tuple[tuple[int, int], ...], list[str]] = defaultdict(list)
    for word in sorted(found, key=lambda it: (_rank(it, rank), it)):
        same[tuple(sorted(found[word].items()))].append(word)
    if unknown := german.keys() - found.keys():
        raise DataError(f"German words translate {', '.join(sorted(unknown))}, which are not nouns")
    nouns = [
        Noun(
            tuple(group),
            tuple(dict.fromkeys(it for w in group for it in german.get(w, ()))),
            dict(d),
        )
        for d, group in same.items()
    ]
    return sorted(nouns, key=lambda it: (-len(it.depths), it.words))


def _nearest(depths: Sequence[Depths]) -> Depths:
    nearest: Depths = {}
    for below in depths:
        for number, depth in below.items():
            nearest[number] = min(depth, nearest.get(number, depth))
    return nearest


def _rank(word: str, rank: Mapping[str, int]) -> int:
    """Return the rank of the least frequent part."""
    return max(rank.get(part, WORD_RANK) for part in word.split())


def _is_frequent(word: str, rank: Mapping[str, int]) -> bool:
    return _rank(word, rank) < (PART_RANK if " " in word else WORD_RANK)


def as_json(nouns: Sequence[Noun], class_count: int) -> dict[str, Any]:
    """Return the tables of the file."""
    classes: list[list[list[int]]] = [[] for _ in range(class_count)]
    for index, noun in enumerate(nouns):
        for number, depth in sorted(noun.depths.items()):
            classes[number].append([index, depth])
    rows = [
        {"words": noun.words, "german": noun.german, "classes": sorted(noun.depths)}
        for noun in nouns
    ]
    return {"classes": classes, "nouns": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--vectors", type=Path, required=True, help="file of words by frequency")
    parser.add_argument("--packages", type=Path, help="node_modules folder; default: npm downloads")
    given = parser.parse_args(arguments)
    words = WordVectors.load(given.vectors).words
    german = json.loads(GERMAN_NOUNS.read_text(encoding="utf-8"))
    classes = imagenet_classes()
    with wordnet(given.packages) as source:
        nouns = typed_nouns(classes, source, words, OwnNouns.load(), german)
    write_atomic(given.out, json.dumps(as_json(nouns, len(classes)), ensure_ascii=False).encode())
    german_count = sum(bool(noun.german) for noun in nouns)
    print(f"{len(nouns)} nouns, {german_count} of them with German words, are in {given.out}")


if __name__ == "__main__":
    main()
