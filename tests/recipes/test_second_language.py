import json
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig, ShardWriter
from second_language import main
from tiny_data import image_bytes

GERMAN = {"image": "dog.jpg", "de": ["ein Hund rennt", "ein brauner Hund"]}


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    with ShardWriter(tmp_path / "photos", name="train") as writer:
        for number, key in enumerate(("dog", "cat")):
            sample = Sample(key, image_bytes(number), (f"a {key} runs",), metadata={"id": number})
            writer.write(sample)
    (tmp_path / "german.jsonl").write_text(json.dumps(GERMAN), encoding="utf-8")
    return [
        *(f"{tmp_path}/out", "--name", "train", "--shards", f"{tmp_path}/photos/train-*.tar"),
        *("--captions", f"{tmp_path}/german.jsonl", "--language", "de"),
    ]


def written(tmp_path: Path) -> list[Sample]:
    source = open_source(ShardsConfig(path=f"{tmp_path}/out/train-*.tar"))
    return [source.read(row) for row in range(len(source))]


def test_the_captions_become_metadata_of_their_photos(tmp_path: Path, arguments: list[str]) -> None:
    main(arguments)
    dog, cat = written(tmp_path)
    assert (dog.captions, cat.captions) == (("a dog runs",), ("a cat runs",))
    assert dog.metadata == {"id": 0, "de": GERMAN["de"]}
    assert cat.metadata == {"id": 1, "de": []}
    assert (dog.image, cat.image) == (image_bytes(0), image_bytes(1))


def test_rows_without_captions_in_the_language_are_refused(
    tmp_path: Path, arguments: list[str]
) -> None:
    with pytest.raises(DataError, match=r"line 1, has no captions in 'fr'"):
        main([*arguments[:-1], "fr"])
