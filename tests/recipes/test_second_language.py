import json
from pathlib import Path

from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig, ShardWriter
from second_language import main
from tiny_data import image_bytes

GERMAN = {"image": "dog.jpg", "de": ["ein Hund rennt", "ein brauner Hund"]}


def test_the_captions_become_metadata_of_their_photos(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "photos", name="train") as writer:
        for number, key in enumerate(("dog", "cat")):
            sample = Sample(key, image_bytes(number), (f"a {key} runs",), metadata={"id": number})
            writer.write(sample)
    (tmp_path / "german.jsonl").write_text(json.dumps(GERMAN), encoding="utf-8")
    photos = ["--name", "train", "--shards", f"{tmp_path}/photos/train-*.tar"]
    captions = ["--captions", f"{tmp_path}/german.jsonl", "--language", "de"]
    main([f"{tmp_path}/out", *photos, *captions])
    source = open_source(ShardsConfig(path=f"{tmp_path}/out/train-*.tar"))
    dog, cat = (source.read(row) for row in range(len(source)))
    assert (dog.captions, cat.captions) == (("a dog runs",), ("a cat runs",))
    assert dog.metadata == {"id": 0, "de": GERMAN["de"]}
    assert cat.metadata == {"id": 1, "de": []}
    assert (dog.image, cat.image) == (image_bytes(0), image_bytes(1))
