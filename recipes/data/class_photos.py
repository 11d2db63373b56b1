"""Write photos of single things as shards, with the name of each as a person would write it.

    python recipes/data/class_photos.py runs/everyday-data/classes imagenet_sample_1000.zip

The zip has a table `meta.jsonl` with `image` and `label`, the name of a class of ImageNet. The
caption of a photo is the name with its article: "a doberman", "an orange", "broccoli",
"sunglasses". Captions without a template keep a model from writing the template about every photo.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.zip_archive import ZipConfig
from emoji_sets import write_shards

UNCOUNTED = frozenset(
    (
        *("armor", "beer", "bread", "broccoli", "carbonara", "cauliflower", "chainmail", "coffee"),
        *("consomme", "cookware", "corn", "cutlery", "dough", "eggnog", "equipment", "espresso"),
        *("food", "footwear", "fruit", "furniture", "guacamole", "hay", "makeup", "meat"),
        *("rapeseed", "spaghetti", "tea", "underwear", "velvet", "wine", "wool"),
    )
)
"""Names of substances and of things in the mass, and last words of such names."""
UNCOUNTED_NAMES = frozenset(
    (
        *("chain mail", "chocolate sauce", "chocolate syrup", "ice cream", "mashed potato"),
        *("toilet paper", "toilet tissue"),
    )
)
_PLURAL = re.compile(r"(?<!s)(?<!u)(?<!i)s$")
_SINGULAR = frozenset({"triceratops", "patas", "pyrenees", "pharos", "flandres", "ananas"})
"""Names that end like plurals."""
_VOWEL = re.compile(r"(?!uni|u-|eu|ew|one)[aeiou]|hour", re.IGNORECASE)


def with_article(name: str) -> str:
    """Write a name of a thing with "a" or "an"; a plural and a substance have no article."""
    last = name.lower().rpartition(" ")[2]
    if last in UNCOUNTED or name.lower() in UNCOUNTED_NAMES:
        return name
    if _PLURAL.search(last) and last not in _SINGULAR:
        return name
    return f"{'an' if _VOWEL.match(name) else 'a'} {name}"


def class_samples(source: Source) -> Iterator[Sample]:
    """Yield the photos of a source, each with the name of its class as a caption."""
    for row in range(len(source)):
        sample = source.read(row)
        (name,) = sample.captions
        yield replace(sample, key=Path(sample.key).stem, captions=(with_article(name),))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shards as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the shards")
    parser.add_argument("zip", type=Path, help="the photos")
    given = parser.parse_args(arguments)
    source = open_source(ZipConfig(path=str(given.zip), caption_column="label"))
    count = write_shards(class_samples(source), given.out, "classes")
    print(f"{count:,} photos are in {given.out}")


if __name__ == "__main__":
    main()
