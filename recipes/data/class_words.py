"""Write the words of ImageNet's classes that captions prefer where the classifier is sure.

    python recipes/data/class_words.py runs/hypernyms.json runs/class_words.json

`class_words` of a recipe for `coca pretrain` takes the file into the model. It has the names of all
classes, the nouns of `hypernyms.py` that are not too general to name a thing, and words for people.
Classes of people and nouns above them are left out: captions find people without a classifier.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coca.processing.class_words import ClassNoun, save_nouns
from hypernyms import ClassText, imagenet_classes

MAX_CLASSES = 150
"""Nouns above more classes, such as animal, do not name a thing."""
GENERAL = re.compile(
    "barrier|carnivore|container|device|domestic(ated)? animal|instrument|machine|pet|solid food|"
    "structure|transport|((electronic|game) )?equipment|measuring (device|instrument)"
)
"""Words that do not name a thing either."""
PEOPLE = (
    "adult adults athlete athletes babies baby biker bikers boy boys child children climber "
    "climbers couple crowd cyclist cyclists family friends girl girls guy guys hiker hikers kid "
    "kids ladies lady man men people person player players rider riders runner runners "
    "skateboarder skateboarders skier skiers snowboarder snowboarders someone surfer surfers "
    "swimmer swimmers team teenager teenagers toddler toddlers woman women worker workers"
)
"""Words for people in captions of photos."""


def class_words(hypernyms: Mapping[str, Any], classes: Sequence[ClassText]) -> list[ClassNoun]:
    """Combine names of classes, nouns above them and words for people."""
    people = {
        number
        for noun in hypernyms["nouns"]
        if "person" in noun["words"]
        for number in noun["classes"]
    }
    nouns = [
        ClassNoun(words, tuple(noun["classes"]))
        for noun in hypernyms["nouns"]
        if len(noun["classes"]) <= MAX_CLASSES
        and people.isdisjoint(noun["classes"])
        and (words := tuple(word for word in noun["words"] if not GENERAL.fullmatch(word)))
    ]
    named = [
        ClassNoun(entry.names, (number,))
        for number, entry in enumerate(classes)
        if number not in people
    ]
    return [ClassNoun(tuple(PEOPLE.split())), *nouns, *named]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hypernyms", type=Path, help="JSON file that hypernyms.py wrote")
    parser.add_argument("out", type=Path, help="JSON file to write")
    given = parser.parse_args(arguments)
    hypernyms = json.loads(given.hypernyms.read_text(encoding="utf-8"))
    nouns = class_words(hypernyms, imagenet_classes())
    save_nouns(nouns, given.out)
    print(f"{len(nouns)} nouns are in {given.out}")


if __name__ == "__main__":
    main()
