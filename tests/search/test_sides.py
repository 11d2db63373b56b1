"""Image and caption vectors in one collection: each is searched by its own field."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus import ann, schema
from coca.search.milvus.collection import Collection
from coca.search.milvus.rows import to_row
from coca.search.records import Record

MakeIndex = Callable[..., Collection]
MakeRecord = Callable[..., Record]
DIRECTION = np.eye(16, dtype=np.float32)[0]


def test_a_record_without_a_caption_is_never_found_by_one(
    collection: Collection, make_record: MakeRecord
) -> None:
    mute = [make_record(f"mute {n}") for n in range(20)]
    spoken = [make_record(f"s{n}", text_vector=make_record(f"c{n}").vector) for n in range(5)]
    collection.upsert([*mute, *spoken])
    # The image's own vector: a placeholder of the caption would rank first.
    for query in (mute[3].vector, spoken[0].vector, -mute[3].vector):
        assert {hit.id for hit in collection.search(query[np.newaxis], 10, on="text")[0]} == {
            record.id for record in spoken
        }
        hits = collection.search(query[np.newaxis], 10, on="text", filter='path < "/pictures/s2"')[
            0
        ]
        assert {hit.id for hit in hits} == {"s0", "s1"}
    assert collection.get(["mute 3"])["mute 3"].text_vector is None


def test_a_caption_without_its_image_is_passed_over_and_pages_do_not_shift(
    collection: Collection, make_record: MakeRecord
) -> None:
    if collection._layout.shared:
        pytest.skip("this Milvus keeps an image and its caption in one row")
    spoken = [make_record(str(n), text_vector=make_record(f"c{n}").vector) for n in range(12)]
    collection.upsert(spoken)
    # As a killed writer leaves them: some without an image, one with another caption.
    stray = {"0", "3", "4", "5", "7"}
    collection._images.delete(stray - {"7"})
    collection._texts.upsert([to_row(replace(spoken[7], caption="new")) | {"vector": DIRECTION}])
    for query in (make_record("c4").vector, DIRECTION):
        scores = {one.id: float(text_vector_of(one) @ query) for one in spoken}
        right = sorted(scores.keys() - stray, key=lambda id: -scores[id])
        pages = [collection.search(query[np.newaxis], 3, offset=n, on="text")[0] for n in (0, 3, 6)]
        assert [hit.id for page in pages for hit in page] == right
    assert collection.repair() == {"7"}
    assert set(collection._texts.ids()) == set(right)


def test_what_was_removed_just_now_is_not_found(
    collection: Collection, make_record: MakeRecord
) -> None:
    """Milvus 2.3 returns it for 0.2 s, since its sessions do not include deletions."""
    for n in range(10):
        cat = make_record(f"cat {n}", text_vector=make_record(f"a cat {n}").vector)
        collection.upsert([cat])
        collection.delete([cat.id])
        assert collection.search(cat.vector[np.newaxis], 5) == [[]]
        assert collection.search(text_vector_of(cat)[np.newaxis], 5, on="text") == [[]]
        collection.upsert([cat])
        assert [hit.id for hit in collection.search(cat.vector[np.newaxis], 5)[0]] == [cat.id]
        collection.upsert([make_record(cat.id)])
        assert collection.search(text_vector_of(cat)[np.newaxis], 5, on="text") == [[]]
        collection.delete([cat.id])


def test_albums_of_many_similar_images_do_not_hide_each_other(
    make_index: Callable[..., Collection],
    fresh: str,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames of a video are similar: the nearest hundred may be of one album."""
    # Thousands of deleted rows, as in the shared test collection, lower a server's recall.
    collection = make_index(collection=fresh)
    monkeypatch.setattr(ann, "_FEW_ROWS", 0)
    rng = np.random.default_rng(0)
    videos = rng.standard_normal((15, 16))
    frames = np.repeat(videos, 60, axis=0) + 0.1 * rng.standard_normal((900, 16))
    frames = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)
    collection.upsert(
        make_record(str(n), vector=vector, album=f"video {n // 60}")
        for n, vector in enumerate(frames)
    )
    for query in frames[::300]:
        best: dict[int, str] = {}
        for n in np.argsort(-(frames @ query), kind="stable"):
            best.setdefault(int(n) // 60, str(n))
        found = collection.search(query[np.newaxis], 4, offset=2, group_by="album")[0]
        assert [hit.id for hit in found] == list(best.values())[2:6]


def test_everything_can_be_read_through(collection: Collection, make_record: MakeRecord) -> None:
    given = {
        str(n): make_record(
            str(n), time=n, text_vector=make_record(f"c{n}").vector if n % 2 else None
        )
        for n in range(1_100)
    }
    collection.upsert(given.values())
    read = {record.id: record for batch in collection.read_through() for record in batch}
    assert read == given
    for name, record in read.items():
        if int(name) % 2:
            assert np.array_equal(text_vector_of(record), text_vector_of(given[name]))
        else:
            assert record.text_vector is None
    few = [record.id for batch in collection.read_through("time < 3") for record in batch]
    assert sorted(few) == ["0", "1", "2"]


def test_the_collection_of_captions_is_not_shown(collection: Collection) -> None:
    assert collection.own_name in schema.list_collections(collection._connection)
    assert collection._texts.name in {collection.own_name, f"{collection.own_name}_texts"}
    assert not any(
        name.endswith("_texts") for name in schema.list_collections(collection._connection)
    )


@pytest.mark.parametrize("changed", [{"coca.layout": "1"}, {"coca.encoding": "{}"}])
def test_a_collection_of_another_version_is_refused_with_a_way_out(
    make_index: MakeIndex, fresh: str, changed: dict[str, str]
) -> None:
    collection = make_index(collection=fresh)
    collection._connection.client.alter_collection_properties(fresh, properties=changed, timeout=10)
    with pytest.raises(SearchError, match=r"another version of coca.*`coca index`"):
        make_index(collection=fresh)


def text_vector_of(record: Record) -> np.ndarray:
    assert record.text_vector is not None
    return record.text_vector
