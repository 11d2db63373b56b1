r"""Add captions in a second language to the photos of WebDataset shards.

    python recipes/data/second_language.py runs/everyday-data/flickr8k --name train \
        --shards 'flickr8k_224/train-*.tar' --captions flickr8k_train_de.jsonl --language de
    python recipes/data/second_language.py runs/everyday-data/flickr8k_de --name val --only \
        --shards 'flickr8k_224/val-*.tar' --captions flickr8k_val_de.jsonl --language de

A row of `--captions` is a JSON object with the name of a photo's file in `image`, and a list of
captions in a field that is called like the language. The shards get them as metadata of that name,
for `keyword_field` of a recipe. With `--only` they replace the captions, and photos without any are
left out, such as for an evaluation.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.tar.shards import ShardsConfig
from emoji_sets import write_shards


def read_captions(path: Path, language: str) -> dict[str, list[str]]:
    """Read the captions of each photo, by the name of its file without the suffix.

    Raises:
        DataError: A row has no captions in the language.
    """
    captions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if not row.get(language):
            raise DataError(
                f"{path}, line {number}, has no captions in {language!r}", reason="missing"
            )
        captions[Path(row["image"]).stem] = row[language]
    return captions


def with_language(
    source: Source, captions: Mapping[str, Sequence[str]], language: str, *, only: bool
) -> Iterator[Sample]:
    """Yield the photos of a source with the captions in a second language.

    Args:
        source: Photos with captions in the first language.
        captions: Captions in the second language, by key.
        language: Field of the metadata that gets them.
        only: Replace the captions, and leave out photos without any in the second language.
    """
    for row in range(len(source)):
        sample = source.read(row)
        found = tuple(captions.get(Path(sample.key).name, ()))
        if not only:
            yield replace(sample, metadata={**sample.metadata, language: list(found)})
        elif found:
            yield replace(sample, captions=found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shards as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the new shards")
    parser.add_argument("--name", required=True, help="start of the new shards' names")
    parser.add_argument("--shards", required=True, help="shards with photos; `*` matches any text")
    parser.add_argument("--captions", type=Path, required=True, help="JSON lines")
    parser.add_argument("--language", required=True, help="field of the captions, such as `de`")
    parser.add_argument("--only", action="store_true", help="leave out all other captions")
    given = parser.parse_args(arguments)
    captions = read_captions(given.captions, given.language)
    source = open_source(ShardsConfig(path=given.shards))
    samples = with_language(source, captions, given.language, only=given.only)
    count = write_shards(samples, given.out, given.name)
    print(
        f"{count:,} photos are in {given.out}; {len(captions):,} have captions in {given.language}"
    )


if __name__ == "__main__":
    main()
