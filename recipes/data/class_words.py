"""Write the words of ImageNet's classes that captions prefer where the classifier is sure.

    python recipes/data/class_words.py runs/hypernyms.json runs/class_words.json

`class_words` of a recipe for `coca pretrain` takes the file into the model. It has the names of all
classes, the nouns of `hypernyms.py` that are not too general to name a thing, and words for people.
Classes of people and nouns above them are left out: captions find people without a classifier.

What people call a class is its name among the class names of CLIP, which open_clip has: WordNet's
first name of a hair dryer is "hand blower". Of the nouns above classes, people use those alone that
`own_nouns.json` lists: nobody calls a hat a headgear or a lid. Both have an article, as in a
caption.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from class_photos import with_article
from coca.processing.class_words import ClassNoun, save_nouns
from hypernyms import ClassText, OwnNouns, imagenet_classes

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


def usual_names(called: Mapping[str, str]) -> list[str]:
    """Return the name that people use of each class, in the order of ImageNet.

    Args:
        called: Names in place of those class names of CLIP that say more than people do.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    names = (name.lower() for name in IMAGENET_CLASSNAMES)
    return [called.get(name, re.split(r" / | \(", name)[0]) for name in names]


def class_words(
    hypernyms: Mapping[str, Any],
    classes: Sequence[ClassText],
    usual: Sequence[str],
    *,
    alone: Set[str],
) -> list[ClassNoun]:
    """Combine names of classes, nouns above them and words for people.

    Args:
        hypernyms: What `hypernyms.py` wrote.
        classes: Names of the classes.
        usual: The name that people use of each.
        alone: Words for nouns above several classes that people use alone.
    """
    people = {
        number
        for noun in hypernyms["nouns"]
        if "person" in noun["words"]
        for number in noun["classes"]
    }
    nouns = [
        ClassNoun(
            words,
            tuple(noun["classes"]),
            next(
                (with_article(it) for it in words if len(noun["classes"]) > 1 and it in alone), ""
            ),
        )
        for noun in hypernyms["nouns"]
        if len(noun["classes"]) <= MAX_CLASSES
        and people.isdisjoint(noun["classes"])
        and (words := tuple(word for word in noun["words"] if not GENERAL.fullmatch(word)))
    ]
    named = [
        ClassNoun(tuple(dict.fromkeys((name, *entry.names))), (number,), with_article(name))
        for number, (entry, name) in enumerate(zip(classes, usual, strict=True))
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
    own = OwnNouns.load()
    nouns = class_words(hypernyms, imagenet_classes(), usual_names(own.called), alone=own.alone)
    save_nouns(nouns, given.out)
    print(f"{len(nouns)} nouns are in {given.out}")


if __name__ == "__main__":
    main()
