"""What people ask, with the captions that people have: the default model over the demo's photos."""

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import coca
from coca.search.query.engine import SearchEngine
from coca.search.records import Origin
from coca.search.stores import open_store

NOUNS = ("dog", "car", "flower", "bird", "Hund", "boat", "a dog in the grass", "food on a plate")
FAMILY = (
    "Our old house",
    "Grandma with her knitting",
    "Christmas dinner 2014",
    "The kids at the lake",
    "Anna's birthday cake",
)
PHOTOS = 90
PHOTOS_FILE = Path(coca.__file__).parent / "workflows/demo/photos.zip"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchEngine]:
    folder = tmp_path_factory.mktemp("few_captions")
    with zipfile.ZipFile(PHOTOS_FILE) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))[:PHOTOS]
        images = [archive.read(name) for name in names]
    model = coca.load()
    with open_store(str(folder / "photos.db"), create=True) as store:
        collection = store.create(
            "pictures", embed_dim=model.embed_dim, fingerprint=model.fingerprint
        )
        engine = SearchEngine(model, collection)
        ids = engine.add(images)
        # Generated captions must not count as those that people gave.
        records = collection.get(ids).values()
        collection.upsert(
            replace(record, caption="a dog", origin=Origin(captioned=True)) for record in records
        )
        yield engine


def family(engine: SearchEngine) -> list[str]:
    """Return the photos that no query of `NOUNS` finds among its first ten."""
    found = {hit.id for noun in NOUNS for hit in engine.search(noun, hybrid=False, limit=10)}
    others = [id for id in engine.collection.ids() if id not in found]
    return others[: len(FAMILY)]


@pytest.mark.slow
def test_five_captions_do_not_come_before_what_the_images_show(engine: SearchEngine) -> None:
    captioned = dict(zip(family(engine), FAMILY, strict=True))
    images = {noun: [hit.id for hit in engine.search(noun)] for noun in NOUNS}
    for id, caption in captioned.items():
        engine.edit([id], caption=caption)
    for noun in NOUNS:
        assert [hit.id for hit in engine.search(noun)] == images[noun]
    for words, row in (("Grandma", 1), ("knitting", 1), ("birthday cake", 4), ("Anna", 4)):
        assert engine.search(words, limit=1)[0].caption == FAMILY[row]


@pytest.mark.slow
def test_a_name_comes_first_and_the_rest_of_the_query_orders_its_photos(
    engine: SearchEngine,
) -> None:
    tagged = [hit.id for hit in engine.search("dog", hybrid=False, limit=40)][::4]
    engine.edit(tagged, metadata={"people": ["Anna Schmidt"]})
    for query in ("dog with Anna", "dog Anna Schmidt"):
        hits = [hit.id for hit in engine.search(query, limit=len(tagged))]
        # Terms add a little, by the length of what a record says.
        assert set(hits) == set(tagged)
        assert hits[0] == tagged[0]
