"""Write product photos as shards with plain captions of color and kind.

    python recipes/data/fashion_products.py runs/everyday-data/fashion fashion_4000.zip

The zip has a table `meta.jsonl` with `image`, `gender`, `articleType`, `baseColour` and `name`, as
the Fashion Product Images dataset. A product gets the captions "navy blue shirts" and "navy blue
shirts for men". Its name, which has brands, becomes the list `keywords` of its metadata.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.zip_archive import ZipConfig
from emoji_sets import write_shards

WEARERS = {"Men": "men", "Women": "women", "Boys": "boys", "Girls": "girls"}
"""Words of the values of `gender`; others, such as Unisex, add nothing to a caption."""


def product_samples(source: Source) -> Iterator[Sample]:
    """Yield the products of a source of the dataset, each with its captions and its name."""
    for row in range(len(source)):
        sample = source.read(row)
        found, (kind,) = sample.metadata, sample.captions
        color = "" if found["baseColour"] in ("", "NA", "Multi") else found["baseColour"]
        plain = " ".join(f"{color} {kind}".lower().split())
        wearer = WEARERS.get(found["gender"])
        captions = (plain, f"{plain} for {wearer}") if wearer else (plain,)
        keywords = [" ".join(found["name"].split())]
        metadata = {"keywords": keywords}
        yield replace(sample, key=Path(sample.key).stem, captions=captions, metadata=metadata)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shards as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the shards")
    parser.add_argument("zip", type=Path, help="the products")
    given = parser.parse_args(arguments)
    source = open_source(ZipConfig(path=str(given.zip), caption_column="articleType"))
    count = write_shards(product_samples(source), given.out, "products")
    print(f"{count:,} products are in {given.out}")


if __name__ == "__main__":
    main()
