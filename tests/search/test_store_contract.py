"""What a store is: the same laws on SQLite, on Milvus Lite and on a Milvus server."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import search_oracle as oracle
from coca.core.errors import SearchError
from coca.search.ranking import TypedQuery
from coca.search.records import Origin, Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.store import Collection, Store
from coca.search.stores import open_collection, open_store
from store_changes import patch
from store_writer import direction

pytestmark = pytest.mark.contract

MakeRecord = Callable[..., Record]
DIM = 16
AXIS = np.eye(DIM, dtype=np.float32)
SHARED = f"coca_tests_{uuid.uuid4().hex[:8]}"
"""A server may have tests of other processes."""
ANY = SearchOptions()


@pytest.fixture(
    scope="module", params=["sqlite", "lite", pytest.param("server", marks=pytest.mark.milvus)]
)
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    if request.param == "sqlite":
        return str(folder / "pictures.db")
    pytest.importorskip("pymilvus")
    if request.param == "server":
        return str(request.getfixturevalue("milvus_server"))
    pytest.importorskip("milvus_lite")
    return f"milvus-lite:{folder / 'lite.db'}"


@pytest.fixture(scope="module")
def store(uri: str) -> Iterator[Store]:
    with open_store(uri, create=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(store: Store) -> Iterator[Collection]:
    """One collection for most tests, since a server takes seconds to create one."""
    yield store.create(SHARED, embed_dim=DIM, fingerprint="model-one", model="runs/one")
    store.drop(SHARED)


@pytest.fixture
def collection(shared: Collection) -> Collection:
    shared.delete(shared.ids())
    return shared


@pytest.fixture
def name(store: Store, fresh: str) -> Iterator[str]:
    """Name of a collection that is dropped after the test."""
    yield fresh
    if store.has(fresh):
        store.drop(fresh)


def create(store: Store, name: str, fingerprint: str = "model-one") -> Collection:
    return store.create(name, embed_dim=DIM, fingerprint=fingerprint)


def names(store: Store) -> list[str]:
    return [info.collection for info in store.list()]


def found(collection: Collection, query: np.ndarray, **options: Any) -> list[str]:
    return [hit.id for hit in collection.nearest(query[np.newaxis], SearchOptions(**options))[0]]


def has_words(collection: Collection) -> bool:
    """Return whether the database has BM25, as a server has from Milvus 2.5 on."""
    return bool(getattr(collection, "has_words", True))


# Collections of a store.


def test_a_collection_is_created_listed_opened_and_dropped(
    store: Store, name: str, make_record: MakeRecord
) -> None:
    assert not store.has(name)
    with pytest.raises(SearchError, match=f"no collection '{name}'"):
        store.open(name)
    made = store.create(name, embed_dim=DIM, fingerprint="model-two", model="runs/two")
    assert made.info == store.open(name).info
    made.upsert([make_record("cat"), make_record("dog", hidden=True)])
    info = next(info for info in store.list() if info.collection == name)
    assert info == made.describe()
    assert (info.uri, info.collection, info.count, info.embed_dim) == (store.uri, name, 2, DIM)
    assert (info.fingerprint, info.model) == ("model-two", "runs/two")
    assert info.store == store.product
    assert names(store) == sorted(names(store))
    with pytest.raises(SearchError, match=f"a collection '{name}'"):
        create(store, name)
    with pytest.raises(SearchError, match="dim"):
        store.create(f"{name}_flat", embed_dim=0, fingerprint="model-one")
    assert not store.has(f"{name}_flat")
    assert store.open(name).count() == 2
    store.drop(name)
    assert not store.has(name)
    assert name not in names(store)


@pytest.mark.parametrize("wrong", ["", "1st", "a-b", "a b", "ä", "x" * 300, 'a"; --'])
def test_a_name_that_no_store_can_have_is_refused(store: Store, wrong: str) -> None:
    before = names(store)
    with pytest.raises(SearchError, match="cannot name a collection"):
        create(store, wrong)
    assert not store.has(wrong)
    with pytest.raises(SearchError, match="no collection"):
        store.open(wrong)
    assert names(store) == before


def test_a_missing_collection_is_reported_with_those_that_there_are(
    store: Store, shared: Collection
) -> None:
    for ask in (store.open, store.drop):
        with pytest.raises(SearchError, match=rf"no collection 'absent'.*{SHARED}"):
            ask("absent")


def test_a_staged_collection_takes_a_name(store: Store, name: str, make_record: MakeRecord) -> None:
    staged = f"{name}_staged"
    for old in (False, True):
        create(store, staged, "model-two" if old else "model-one").upsert(
            [make_record("new" if old else "old", caption="a cat")]
        )
        store.promote(staged, name)
        assert not store.has(staged)
        assert staged not in names(store)
    collection = store.open(name)
    assert collection.info.fingerprint == "model-two"
    assert collection.ids() == found(collection, AXIS[0]) == ["new"]
    collection.upsert([make_record("more")])
    assert store.promote(name, name)
    assert collection.count() == 2
    with pytest.raises(SearchError, match="no collection 'absent'"):
        store.promote("absent", name)
    assert store.open(name).ids() == ["more", "new"]


def test_other_writers_wait_for_a_promotion(
    store: Store, name: str, make_record: MakeRecord
) -> None:
    former, staged = create(store, name), create(store, f"{name}_staged")
    staged.upsert([make_record("new")])
    former.upsert([make_record("old")])
    assert not store.promote(f"{name}_staged", name, is_ready=lambda: False)
    assert (former.ids(), staged.ids()) == (["old"], ["new"])
    ended = []

    def write() -> None:
        former.upsert([make_record("late")])
        ended.append("late")

    late = threading.Thread(target=write)

    def copy() -> bool:
        late.start()
        late.join(0.3)
        staged.upsert([make_record(id) for id in former.ids()])
        assert not ended
        return True

    assert store.promote(f"{name}_staged", name, is_ready=copy)
    late.join()
    assert store.open(name).ids() == former.ids() == ["late", "new", "old"]


def test_a_failed_promotion_leaves_the_former_collection(
    store: Store, name: str, make_record: MakeRecord
) -> None:
    former, staged = create(store, name), create(store, f"{name}_staged")
    former.upsert([make_record("old")])
    staged.upsert([make_record("new")])

    def fail() -> bool:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        store.promote(f"{name}_staged", name, is_ready=fail)
    former.upsert([make_record("later")])
    assert (former.ids(), staged.ids()) == (["later", "old"], ["new"])


def test_a_collection_is_opened_with_its_model_only(uri: str, name: str, store: Store) -> None:
    if uri.startswith("milvus-lite:"):
        pytest.skip("Milvus Lite allows one process and one client a file")
    model: dict[str, Any] = {"embed_dim": DIM, "fingerprint": "model-one"}
    for options, fault in (
        ({"create": True}, "name embed_dim and fingerprint"),
        (model, f"no collection '{name}'"),
        (model | {"create": True}, ""),
        (model | {"fingerprint": "m2"}, "and not by m2"),
        (model | {"embed_dim": 8}, "not of 8"),
        ({}, ""),
    ):
        opening = open_collection(uri, name, **options)
        with pytest.raises(SearchError, match=fault) if fault else nullcontext(), opening as made:
            assert made.count() == 0


# Records.


def test_what_is_written_can_be_read(collection: Collection, make_record: MakeRecord) -> None:
    record = make_record(
        "cat",
        caption='a "cat"\n\\ ä 東京 🐈',
        content="c" * 32,
        width=640,
        height=480,
        time=-5,
        tags=("cat", 'ä "quoted" tag', "it's"),
        album="Ferien '22/ä",
        hidden=True,
        metadata={"n": 1, "deep": {"list": [1.5, None, "x", True, {"y": -(2**53)}]}, "ä": "🐈"},
        text_vector=AXIS[3],
        perceptual_hash=bytes(range(256)),
        origin=Origin(etag="1-2", label="abc", captioned=True, dated="file", read=3),
    )
    assert collection.upsert([record, make_record("dog")]) == 2
    read = collection.get(["cat", "absent", "dog"])
    assert read == {"cat": record, "dog": make_record("dog")}
    np.testing.assert_array_equal(read["cat"].vector, record.vector)
    np.testing.assert_array_equal(read["cat"].text_vector, AXIS[3])
    assert read["dog"].text_vector is None
    patch(collection, {"cat": {"caption": record.caption}})
    for found in (read, collection.get(["cat", "dog"])):
        hashes = [found[id].perceptual_hash for id in ("cat", "dog")]
        assert hashes == [record.perceptual_hash, b""]
    assert collection.hits({"absent": 0.1, "dog": 0.5, "cat": 0.25}) == [
        make_record("dog").as_hit(0.5),
        record.as_hit(0.25),
    ]


def test_a_record_is_replaced_deleted_and_inserted_again(
    collection: Collection, make_record: MakeRecord
) -> None:
    collection.upsert([make_record("cat", caption="old", text_vector=AXIS[0], tags=("a",))])
    # Twice in one batch: the last record wins.
    collection.upsert([make_record("cat", caption="newer"), make_record("cat", caption="newest")])
    assert collection.get(["cat"]) == {"cat": make_record("cat", caption="newest")}
    assert found(collection, AXIS[0], on="text") == []
    assert collection.count('array_contains(tags, "a")') == 0
    for _ in range(5):
        assert collection.delete(["cat", "absent", "cat"]) == 1
        assert collection.count() == len(found(collection, AXIS[0])) == 0
        collection.upsert([make_record("cat", caption="a kitten")])
        assert found(collection, AXIS[0]) == ["cat"]
        assert [id for id, _ in collection.words("kitten", 9)] == ["cat"] * has_words(collection)
        assert collection.words("newest", 9) == []
    assert collection.delete([]) == collection.delete(["absent"]) == 0


def test_fields_are_patched_and_the_others_stay(
    collection: Collection, make_record: MakeRecord
) -> None:
    cat = make_record("cat", caption="a cat", text_vector=AXIS[1], tags=("x",), metadata={"n": 1})
    collection.upsert([cat, make_record("dog")])
    assert found(collection, AXIS[1], filter='album == "tags"') == []
    changes: dict[str, Any] = {"tags": ("y", "z"), "album": "tags", "metadata": {"m": [2]}}
    assert patch(collection, {"cat": changes, "absent": {"album": "none"}}) == 1
    patched = replace(cat, **changes)
    assert collection.get(["cat", "dog", "absent"]) == {"cat": patched, "dog": make_record("dog")}
    assert collection.ids('array_contains(tags, "z") and metadata["m"][0] == 2') == ["cat"]
    assert [id for id, _ in collection.words("tags", 9)] == ["cat"] * has_words(collection)
    np.testing.assert_array_equal(collection.get(["cat"])["cat"].vector, cat.vector)
    assert found(collection, AXIS[1], on="text") == ["cat"]
    assert found(collection, AXIS[1], filter='album == "tags"') == ["cat"]
    patch(collection, {"cat": {"caption": "a lion", "text_vector": AXIS[2], "vector": AXIS[4]}})
    hit = collection.nearest(AXIS[4:5], SearchOptions(limit=1))[0][0]
    assert (hit.id, hit.caption, round(hit.score, 5)) == ("cat", "a lion", 1)
    assert collection.nearest(AXIS[2:3], SearchOptions(on="text"))[0][0].score > 0.99
    patch(collection, {"cat": {"hidden": True}})
    assert found(collection, AXIS[4]) == ["dog"]
    assert patch(collection, {}) == patch(collection, {"absent": changes}) == 0
    for wrong in (
        {"caption": "x" * 70_000},
        {"vector": AXIS[0] * 2},
        {"width": -1},
        {"perceptual_hash": b"x"},
    ):
        with pytest.raises(SearchError, match="record cat"):
            patch(collection, {"dog": {"album": "tags"}, "cat": wrong})
    assert collection.get(["dog"])["dog"].album == ""
    assert collection.get(["cat"])["cat"].caption == "a lion"


def test_an_update_is_repeated_with_what_others_wrote(
    store: Store, collection: Collection, make_record: MakeRecord
) -> None:
    collection.upsert([make_record("cat"), make_record("dog")])
    other = store.open(SHARED)
    calls: list[dict[str, Record]] = []

    def change(stored: Mapping[str, Record]) -> dict[str, Record | None]:
        if not calls:
            patch(other, {"cat": {"album": "theirs"}})
        calls.append(dict(stored))
        new = make_record("new", album="mine")
        return {"cat": replace(stored["cat"], tags=("mine",)), "dog": None, "new": new}

    written = collection.update(["cat", "dog", "new", "absent"], change)
    assert [call["cat"].album for call in calls] == ["", "theirs"]
    assert written == collection.get(["cat", "dog", "new"])
    assert (written["cat"].album, written["cat"].tags) == ("theirs", ("mine",))
    assert sorted(written) == ["cat", "new"]

    def refuse(stored: Mapping[str, Record]) -> dict[str, Record]:
        raise KeyError(*stored)

    with pytest.raises(KeyError, match="new"):
        collection.update(["new"], refuse)
    # What is stored already is not written.
    version = collection.changes().version
    assert collection.update(["new"], lambda stored: stored) == {"new": written["new"]}
    assert collection.changes().version == version


def test_writes_of_other_clients_change_the_version(
    store: Store, collection: Collection, make_record: MakeRecord
) -> None:
    other = store.open(SHARED)
    collection.upsert([make_record("cat")])
    version = other.changes().version
    assert other.changes(version).ids == ()
    patch(collection, {"cat": {"album": "theirs"}})
    changes = other.changes(version)
    assert changes.version > version
    assert changes.ids is None or changes.ids == ("cat",)
    assert collection.changes(version).ids == ("cat",)
    assert other.changes(changes.version).ids == ()


def test_pages_have_every_record_once_in_order(
    collection: Collection, make_record: MakeRecord
) -> None:
    records = {
        f"{n:04}": make_record(
            f"{n:04}", time=n, hidden=n % 3 == 0, text_vector=AXIS[n % DIM] if n % 2 else None
        )
        for n in range(1_100)
    }
    collection.upsert(records.values())
    pages = list(collection.pages('caption != "absent"', size=500))
    assert [len(page) for page in pages] == [500, 500, 100]
    read = [record for page in pages for record in page]
    assert read == list(records.values())
    np.testing.assert_array_equal(read[7].text_vector, AXIS[7])
    assert read[8].text_vector is None
    assert collection.ids() == list(records)
    assert collection.ids("time < 3") == ["0000", "0001", "0002"]
    assert collection.count("time < 3") == 3
    few = [record for page in collection.pages("time < 3", vectors=False) for record in page]
    assert few == list(records.values())[:3]
    assert all(record.vector.size == 0 for record in few)
    shown = [record for record in records.values() if not record.hidden]
    none = np.zeros(DIM, np.float32)
    texts = [none if one.text_vector is None else one.text_vector for one in shown]
    for (ids, array), vectors in (
        (collection.vectors(), [record.vector for record in shown]),
        (collection.vectors("text"), texts),
    ):
        assert ids == [record.id for record in shown]
        np.testing.assert_array_equal(array, np.stack(vectors))
    # A page may be long out of date when the next one is asked for.
    reader = collection.pages(size=500)
    first = [record.id for record in next(reader)]
    collection.delete(["0001", "0999"])
    collection.upsert([make_record("0000", caption="again"), make_record("00005")])
    rest = [record.id for page in reader for record in page]
    assert len({*first, *rest}) == len(first) + len(rest)
    assert {*first, *rest} >= records.keys() - {"0999"}


def test_an_empty_collection_answers_with_nothing(collection: Collection) -> None:
    assert collection.nearest(AXIS[:2], ANY) == [[], []]
    assert collection.nearest(AXIS[:0], ANY) == []
    assert collection.ranked(TypedQuery(AXIS[0], "a red car"), Ranking(), ANY) == []
    assert collection.words("a red car", 5) == []
    assert list(collection.pages()) == []
    assert collection.get([]) == collection.get(["absent"]) == {}
    assert collection.hits({"absent": 1.0}) == []
    ids, vectors = collection.vectors()
    assert (ids, vectors.shape) == ([], (0, DIM))


def test_no_id_reaches_another_record(collection: Collection, make_record: MakeRecord) -> None:
    odd = ["it's.jpg", "Katze 🐈", "%_[]()", "'] or id != ''", "x' or 'x' == 'x"]
    collection.upsert(make_record(id) for id in [*odd, "plain"])
    assert collection.ids() == sorted([*odd, "plain"])
    assert {id: record.id for id, record in collection.get(odd).items()} == {id: id for id in odd}
    others = ["x'] or id != '' or id in ['y", 'x"] or id != "" or id in ["y', "a\\", "a\nb"]
    assert collection.delete(others) == 0
    assert collection.get(others) == {}
    assert collection.count() == len(odd) + 1
    assert collection.delete(odd) == len(odd)
    assert collection.ids() == ["plain"]


def test_changes_since_a_version_name_what_was_written(
    collection: Collection, make_record: MakeRecord
) -> None:
    start = collection.changes().version
    assert collection.changes(start).ids in ((), None)
    collection.upsert([make_record("cat"), make_record("dog")])
    collection.delete(["dog"])
    patch(collection, {"cat": {"hidden": True}})
    changed = collection.changes(start)
    assert changed.version > start
    assert changed.ids is None or set(changed.ids) == {"cat", "dog"}
    assert collection.changes(changed.version).version == changed.version


# Bad input: one sentence, and nothing is written.


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"vector": np.full(DIM, np.nan, np.float32)}, r"record b \(/pictures/b.jpg\) has .*NaN"),
        ({"vector": np.ones(4, np.float32)}, "record b .* 4 numbers; this collection has 16"),
        ({"vector": np.ones(DIM, np.float32)}, "record b .* length 4; its length must be 1"),
        ({"text_vector": np.zeros(DIM, np.float32)}, "the caption of record b .* length 0"),
        ({"metadata": {"x": float("nan")}}, "record b .* cannot be stored: the metadata"),
        ({"caption": "é" * 40_000}, "the caption has 80,000 bytes; at most 65,535 fit"),
        ({"id": ""}, "cannot be stored: the id is empty"),
        ({"id": "dir\\new.jpg"}, r"the id must not contain quotes, .* got '\\\\'"),
        ({"id": "two\nlines"}, r"the id must not contain .* got '\\n'"),
        ({"id": "é" * 33}, "the id has 66 bytes; at most 64 fit"),
        ({"tags": tuple("a" * 300)}, "300 tags; at most 256 fit"),
        ({"tags": ("x" * 600,)}, "tag 'xxx.* has 600 bytes; at most 512 fit"),
        ({"width": -1}, "the width is -1; it may be 0 to"),
        ({"height": True}, "the height is True, and not a whole number"),
        ({"time": 2**63}, "the time is 9,223,.*; it may be"),
        ({"album": "x" * 5_000}, "the album has 5,000 bytes"),
    ],
)
def test_a_record_that_cannot_be_stored_is_named(
    collection: Collection, make_record: MakeRecord, fields: Any, fault: str
) -> None:
    collection.upsert([make_record("a")])
    with pytest.raises(SearchError, match=fault) as caught:
        collection.upsert([make_record("a", caption="new"), replace(make_record("b"), **fields)])
    assert "\n" not in str(caught.value)
    assert collection.get(collection.ids()) == {"a": make_record("a")}


def test_a_query_that_cannot_be_compared_is_refused(
    collection: Collection, make_record: MakeRecord
) -> None:
    collection.upsert([make_record("a")])
    with pytest.raises(SearchError, match="query 1 has a vector of length 0"):
        collection.nearest(AXIS[:2] * [[1.0], [0.0]], ANY)
    with pytest.raises(SearchError, match="query 0 has a vector with NaN"):
        collection.nearest(np.full((1, DIM), np.nan, np.float32), ANY)
    with pytest.raises(SearchError, match="collection takes rows of 16 numbers"):
        collection.nearest(np.eye(1, 8, dtype=np.float32), ANY)
    with pytest.raises(SearchError, match="at most 16,384, got 16,000 and 400"):
        collection.nearest(AXIS[:1], SearchOptions(limit=16_000, offset=400))


@pytest.mark.parametrize(
    "filter", ["bogus == 3", 'caption == "x', "((", "caption == 5", "1; DROP TABLE x"]
)
def test_a_filter_that_cannot_be_read_is_refused(collection: Collection, filter: str) -> None:
    options = SearchOptions(filter=filter)
    asks: list[Callable[[], object]] = [
        lambda: collection.count(filter),
        lambda: collection.ids(filter),
        lambda: list(collection.pages(filter)),
        lambda: collection.words("a", 3, filter),
        lambda: collection.nearest(AXIS[:1], options),
        lambda: collection.ranked(TypedQuery(AXIS[0], "a"), Ranking(), options),
    ]
    for ask in asks:
        with pytest.raises(SearchError) as caught:
            ask()
        assert "\n" not in str(caught.value)


# Searches.


def test_equal_scores_are_sorted_by_id(collection: Collection, make_record: MakeRecord) -> None:
    ids = [f"{n:02}" for n in range(30)]
    collection.upsert(make_record(id, vector=AXIS[0]) for id in reversed(ids))
    assert found(collection, AXIS[0], limit=9) == ids[:9]
    assert found(collection, AXIS[0], limit=9, offset=9) == ids[9:18]


def test_albums_of_many_similar_images_do_not_hide_each_other(
    store: Store, name: str, make_record: MakeRecord
) -> None:
    """Frames of a video are similar: the nearest hundred may be of one album."""
    collection, rng = create(store, name), np.random.default_rng(0)
    frames = np.repeat(rng.standard_normal((15, DIM)), 60, axis=0)
    frames += 0.1 * rng.standard_normal(frames.shape)
    frames = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)
    records = [
        make_record(f"{n:03}", vector=vector, album=f"video {n // 60}")
        for n, vector in enumerate(frames)
    ]
    collection.upsert(records)
    asked = SearchOptions(limit=4, offset=2, group_by="album")
    for query in frames[::300]:
        hits = collection.nearest(query[np.newaxis], asked)[0]
        oracle.check(hits, oracle.rank(records, query, asked), asked)


def test_words_are_found_in_all_that_a_record_says(
    collection: Collection, make_record: MakeRecord
) -> None:
    collection.upsert(
        [
            make_record("caption", caption="Uncle Bob's boats at the lake"),
            make_record("tags", tags=("Christmas", "zoo trip")),
            make_record("people", metadata={"people": ["Anna Müller"]}),
            make_record("place", metadata={"city": "Lisbon", "country": "Portugal"}),
            make_record("album", album="/photos/2019/Hochzeit Berlin"),
            make_record("name", path="/pictures/IMG_golden-gate.jpg"),
            make_record("other", caption="a house at the sea"),
        ]
    )
    for text, expected in {
        "boat": {"caption"},
        "BOATS at the": {"caption"},
        "christmas": {"tags"},
        "anna": {"people"},
        "Müller": {"people"},
        "lisbon": {"place"},
        "portugal": {"place"},
        "Berlin": {"album"},
        "golden gate": {"name"},
        "the": set(),
        "zebra": set(),
        "anna in lisbon": {"people", "place"},
    }.items():
        hits = collection.words(text, 20)
        assert {id for id, _ in hits} == (expected if has_words(collection) else set()), text
        scores = [score for _, score in hits]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 for score in scores)
    both = collection.words("anna in lisbon", 9)
    assert collection.words("anna in lisbon", 1) == both[:1]
    assert collection.words("anna in lisbon", 9, 'id == "place"') == [
        hit for hit in both if hit[0] == "place"
    ]


@pytest.fixture(scope="module")
def filled(store: Store) -> Iterator[oracle.Filled]:
    name = f"{SHARED}_of_oracle"
    yield oracle.fill(create(store, name), 300)
    store.drop(name)


@pytest.mark.slow
@given(oracle.OPTIONS, oracle.FILTERS, oracle.TEXTS, oracle.RANKINGS)
@settings(max_examples=settings().max_examples // 5)
def test_searches_find_what_the_oracle_finds(
    filled: oracle.Filled, options: Any, filter: str, text: str, weights: Any
) -> None:
    asked, ranking = SearchOptions(**options, filter=filter), Ranking(**weights)
    oracle.check_nearest(filled, asked, text)
    # Statistics of Milvus' BM25 are those of its segments, in which deleted records still count.
    everything = SearchOptions(limit=300, group_by="path")
    query = TypedQuery(direction(text), text, oracle.SPREADS)
    hits = filled.collection.ranked(query, ranking, everything)
    bm25 = {hit.id: hit.bm25 for hit in hits if hit.bm25}
    oracle.check_ranked(filled, asked, text, ranking, bm25, texts=has_words(filled.collection))


# Saved searches.


def test_saved_searches_stay_with_the_name_of_a_collection(
    store: Store, name: str, fresh: str
) -> None:
    staged = f"{fresh}_staged"
    first = create(store, name)
    assert first.saved_searches() == {}
    first.save_search("ships at sea", '{"text": "ship"}')
    for text in ("tree", "big trees"):
        first.save_search("Bäume", text)
    for text in ("any", ""):
        first.save_search("gone", text)
    expected = {"Bäume": "big trees", "ships at sea": '{"text": "ship"}'}
    assert store.open(name).saved_searches() == expected
    assert create(store, staged, "model-two").saved_searches() == {}
    store.promote(staged, name)
    assert store.open(name).saved_searches() == expected
    store.drop(name)
    assert create(store, name).saved_searches() == {}


def test_records_with_a_similar_word_are_found(
    collection: Collection, make_record: MakeRecord, store: Store
) -> None:
    collection.upsert(
        [
            make_record("person", metadata={"people": ["Jorgen"]}),
            make_record("tags", tags=("Snowboarding", "Hiking")),
            make_record("words", caption="a brown dog"),
            make_record("model", caption="a giraffe", origin=Origin(captioned=True)),
            make_record("hidden", tags=("Jorgen",), hidden=True),
        ]
    )
    similar = {"jorgn": "person", "jorg": "person", "snowboardign": "tags", "dgo": "words"}
    similar |= {"girafe": "model", "odg": "words"}
    has_words = bool(collection.words("dog", 1))
    for word, id in similar.items():
        assert [hit.id for hit in collection.similar_words(word)] == [id] * has_words, word
    assert collection.similar_words("elephant") == []
