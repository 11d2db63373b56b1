"""Write the words of ImageNet's classes that captions prefer where the classifier is sure.

    python recipes/data/class_words.py runs/hypernyms.json runs/class_words.json

`class_words` of a recipe for `coca pretrain` takes the file into the model. It has the names of all
classes, the nouns of `hypernyms.py` that are not too general to name a thing, and words for people.
Classes of people and nouns above them are left out: captions find people without a classifier.

What people call a class is its name among the class names of CLIP, which open_clip has: WordNet's
first name of a hair dryer is "hand blower". Of the nouns above classes those in `USUAL` are used
alone: nobody calls a hat a headgear or a lid. Both have an article, as in a caption.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from class_photos import with_article
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

USUAL = (
    "aircraft amphibian ape appliance armor bag ball basket beach bear bed beer beetle bike bird "
    "boat book bottle bowl box bread bridge building bus butterfly cabinet camera canine cap car "
    "cart cat chair chicken church cloak clock clothes coast coat coffee computer condiment "
    "cookware corgi corn crab crane crayfish crustacean cup curtain cutlery decoration "
    "deer dessert dish dog dress drink duck elephant fence finch firearm fish flower food footwear "
    "fox frog fruit furniture garden glass glasses gown greyhound grouse guitar gun hat heater "
    "helmet heron hound house insect jacket jar jet jug keyboard knife lamp landscape laptop lemur "
    "light lizard lobster lock makeup marsupial mask meal meat missile monkey monument motorcycle "
    "mountain mushroom newt oven pan panda panther pants parrot partridge pen phone piano pie pig "
    "plane plant poodle pot primate puzzle rabbit rattlesnake reptile retriever robe rocket rodent "
    "roof sailboat salamander sandpiper sandwich sauce scarf screen seat seed shark shed shell "
    "ship shirt shoe sign skirt sled smartphone snake spaniel spider squash store stork "
    "swimsuit table tea telephone terrier theater thrush tie timer tool towel tower toy "
    "train tram trap truck turtle tv underwear van vegetable vehicle viper warship watch weapon "
    "whale wheel window wine wolf worm"
)
"""Single words for nouns above several classes that people use alone."""
USUAL_PARTS = (
    "baked goods|big cat|bird of prey|brass instrument|bull terrier|game bird|kitchen appliance|"
    "military vehicle|musical instrument|percussion instrument|power tool|sailing ship|sea bird|"
    "shore bird|slot machine|small boat|sports equipment|toy dog|wading bird|wild dog|"
    "wind instrument"
)
"""The same of several words."""
UNCOUNTED = frozenset(
    (
        *("armor", "beer", "bread", "chocolate syrup", "coffee", "cookware", "cutlery", "food"),
        *("footwear", "fruit", "furniture", "makeup", "meat", "sports equipment", "tea"),
        *("toilet paper", "underwear", "wine"),
    )
)
"""Without an article, next to what `class_photos.py` lists."""
CALLED = {
    "baby bib": "bib",
    "bell or wind chime": "wind chime",
    "bird crane": "crane",
    "bittern bird": "bittern",
    "brass memorial plaque": "plaque",
    "carved pumpkin": "pumpkin",
    "common sorrel horse": "horse",
    "construction crane": "crane",
    "crane bird": "crane",
    "cricket insect": "cricket",
    "crt monitor": "monitor",
    "drink pitcher": "pitcher",
    "electrical switch": "switch",
    "farm plow": "plow",
    "fishing casting reel": "fishing reel",
    "gar fish": "gar",
    "gas mask or respirator": "gas mask",
    "hair wig": "wig",
    "horse chestnut seed": "chestnut",
    "keyboard space bar": "space bar",
    "metal nail": "nail",
    "military hat (bearskin or shako)": "hat",
    "music speaker": "speaker",
    "product packet / packaging": "packet",
    "red wolf or maned wolf": "red wolf",
    "ruler measuring stick": "ruler",
    "snoek fish": "snoek",
    "spiral or coil": "spiral",
    "traffic or street sign": "street sign",
    "vaulted or arched ceiling": "arched ceiling",
    "velvet fabric": "velvet",
    "weighing scale": "scale",
}
"""Class names of CLIP that say more than people do, to tell a class from others."""


def usual_names() -> list[str]:
    """Return the name that people use of each class, in the order of ImageNet."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    names = (name.lower() for name in IMAGENET_CLASSNAMES)
    return [CALLED.get(name, re.split(r" / | \(", name)[0]) for name in names]


def in_caption(name: str) -> str:
    """Write a name with its article, if it has one."""
    return name if name in UNCOUNTED else with_article(name)


def class_words(
    hypernyms: Mapping[str, Any], classes: Sequence[ClassText], usual: Sequence[str]
) -> list[ClassNoun]:
    """Combine names of classes, nouns above them and words for people.

    Args:
        hypernyms: What `hypernyms.py` wrote.
        classes: Names of the classes.
        usual: The name that people use of each.
    """
    alone = {*USUAL.split(), *USUAL_PARTS.split("|")}
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
            next((in_caption(it) for it in words if len(noun["classes"]) > 1 and it in alone), ""),
        )
        for noun in hypernyms["nouns"]
        if len(noun["classes"]) <= MAX_CLASSES
        and people.isdisjoint(noun["classes"])
        and (words := tuple(word for word in noun["words"] if not GENERAL.fullmatch(word)))
    ]
    named = [
        ClassNoun(tuple(dict.fromkeys((name, *entry.names))), (number,), in_caption(name))
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
    nouns = class_words(hypernyms, imagenet_classes(), usual_names())
    save_nouns(nouns, given.out)
    print(f"{len(nouns)} nouns are in {given.out}")


if __name__ == "__main__":
    main()
