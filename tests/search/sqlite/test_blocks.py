"""Rows that were written since their block: small writes, and one answer with and without folds."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import search_oracle as oracle
from coca.search.filters import where
from coca.search.ranking import TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.sqlite import blocks
from coca.search.store import Collection
from coca.search.stores import open_store

DIM = 8
WORDS = ("red", "cars", "sky", "dogs", "Kinder", "beach", "Anna")


def unit(rng: np.random.Generator, size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = rng.standard_normal(size).astype(np.float32)
    return vector / np.linalg.norm(vector)


def drawn(chance: random.Random, number: int) -> Record:
    """Draw one of 40 records, with a caption or without."""
    rng = np.random.default_rng(chance.randrange(2**32))
    caption = " ".join(chance.choices(WORDS, k=4)) * (chance.random() < 0.7)
    return Record(
        id=f"{number:02}",
        path=f"{number:02}.jpg",
        caption=caption,
        tags=tuple(chance.choices(WORDS, k=1)),
        vector=unit(rng, DIM),
        text_vector=unit(rng, DIM) if caption else None,
        metadata={"people": [chance.choice(("Anna", "Ben"))]},
    )


@contextmanager
def open_folding(path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    monkeypatch.setattr(blocks, "FOLD_ROWS", rows)
    with open_store(str(path), create=True) as store:
        yield store.create("c", embed_dim=DIM, fingerprint="f")


def change(collection: Collection, chance: random.Random) -> None:
    """Upsert, delete, or edit some records."""
    ids = [f"{chance.randrange(40):02}" for _ in range(chance.randrange(1, 6))]
    kind = chance.randrange(3)
    if kind == 0:
        collection.upsert([drawn(chance, int(id)) for id in dict.fromkeys(ids)])
    elif kind == 1:
        collection.delete(ids)
    else:
        tags = (chance.choice(WORDS),)
        collection.update(
            ids, lambda stored: {id: replace(one, tags=tags) for id, one in stored.items()}
        )


def check(collection: Collection) -> None:
    """Compare searches with brute force over all records."""
    records = [one for page in collection.pages() for one in page]
    query, options = np.ones(DIM, np.float32) / np.float32(DIM**0.5), SearchOptions(limit=100)
    hits = collection.nearest(query[np.newaxis], options)[0]
    oracle.check(hits, oracle.rank(records, query, options), options)
    words, text, ranking = oracle.Words(records), "red dogs of Anna", Ranking()
    hits = collection.ranked(TypedQuery(query, text, oracle.SPREADS), ranking, options)
    expected = oracle.rank(
        records,
        query,
        options,
        ranking=ranking,
        bm25=words.bm25(text, ranking),
        matches=lambda id: words.matches(id, text),
    )
    oracle.check(hits, expected, options)
    for filter in ('array_contains(tags, "sky")', where("caption", "==", "")):
        kept = collection.nearest(query[np.newaxis], SearchOptions(limit=100, filter=filter))[0]
        assert sorted(hit.id for hit in kept) == collection.ids(filter)
    people = {one.metadata["people"][0].lower() for one in records}
    assert collection.labels_in("anna") == ({"named:anna"} if "anna" in people else set())
    similar = {hit.id for hit in collection.similar_words("doge")}
    assert similar == {one.id for one in records if "dogs" in (*one.caption.split(), *one.tags)}


@pytest.mark.parametrize("rows", [1, 3, 1_000])
@pytest.mark.parametrize("seed", range(4))
def test_searches_are_those_of_brute_force_with_any_number_of_rows_to_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, seed: int
) -> None:
    chance = random.Random(seed)
    with open_folding(tmp_path / "a.db", rows, monkeypatch) as collection:
        for _ in range(25):
            change(collection, chance)
            check(collection)
        with open_store(str(tmp_path / "a.db")) as store:
            check(store.open("c"))


def test_one_record_is_a_small_write(tmp_path: Path) -> None:
    path, rng, dim = tmp_path / "a.db", np.random.default_rng(0), 256
    records = [
        Record(id=f"{n}", path=f"{n}.jpg", caption="a red car", vector=v, text_vector=v)
        for n, v in ((n, unit(rng, dim)) for n in range(1_100))
    ]
    with open_store(str(path), create=True) as store, closing(sqlite3.connect(path)) as other:
        collection = store.create("c", embed_dim=dim, fingerprint="f")
        collection.upsert(records)
        for one in (replace(records[7], caption="blue"), replace(records[8], id="new")):
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            collection.upsert([one])
            # A page of each table and index at most, and a few for pages that are split.
            assert (tmp_path / "a.db-wal").stat().st_size < 20 * 8_192


@pytest.mark.parametrize("waiting", [0, 100])
def test_a_batch_that_fills_a_block_is_written_once(tmp_path: Path, waiting: int) -> None:
    path, rng = tmp_path / "a.db", np.random.default_rng(0)
    records = [Record(id=f"{n}", path=f"{n}.jpg", vector=unit(rng, 256)) for n in range(1_000)]
    with open_store(str(path), create=True) as store, closing(sqlite3.connect(path)) as file:
        collection = store.create("c", embed_dim=256, fingerprint="f")
        collection.upsert(records[:waiting])
        assert file.execute("SELECT count(*) FROM c_recent").fetchone() == (waiting,)
        collection.upsert(records[waiting:])
        assert file.execute("SELECT count(*) FROM c_recent").fetchone() == (0,)
        # Pages of rows that were written and deleted again are free.
        (free,) = file.execute("PRAGMA freelist_count").fetchone()
        assert free <= waiting * 0.05


def test_other_terms_of_a_former_library_leave_no_postings_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coca.search import words

    record = Record(
        id="a", path="a.jpg", caption="dogs", vector=unit(np.random.default_rng(0), DIM)
    )
    with open_folding(tmp_path / "a.db", 1, monkeypatch) as collection:
        with monkeypatch.context() as former:
            former.setattr(words, "_stems", lambda language, found: [f"{one}x" for one in found])
            collection.upsert([record])
        collection.upsert([replace(record, caption="cats")])
        assert [id for id, _ in collection.words("cats", 5)] == ["a"]
        assert collection.words("dogsx", 5) == []
    with closing(sqlite3.connect(tmp_path / "a.db")) as file:
        terms = {term for (term,) in file.execute("SELECT term FROM c_words")}
    assert not any("dogs" in term for term in terms)
