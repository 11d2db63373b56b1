"""The collection that a caller opens without naming one."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from coca.core.errors import SearchError
from coca.search.store import Store
from coca.search.stores import open_collection, open_store


@pytest.fixture(params=["sqlite", pytest.param("lite", marks=pytest.mark.slow)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store without collections."""
    if request.param == "lite":
        pytest.importorskip("milvus_lite")
    uri = f"milvus-lite:{tmp_path / 'lite.db'}" if request.param == "lite" else tmp_path / "a.db"
    with open_store(uri, create=True) as opened:
        yield opened


def create(store: Store, *names: str) -> None:
    for name in names:
        store.create(name, embed_dim=4, fingerprint="one")


@pytest.mark.filterwarnings("default")
def test_the_only_collection_is_the_default_whatever_its_name(empty: Store) -> None:
    with pytest.raises(SearchError, match="no collection 'pictures'"):
        empty.open()
    create(empty, "holidays")
    assert empty.open().info.collection == "holidays"
    # Class embeddings, and what an interrupted `coca reindex` leaves, are no collection of images.
    create(empty, "classes", "holidays_new_0a1b2c3d")
    assert empty.open().info.collection == "holidays"
    create(empty, "work")
    with pytest.raises(SearchError, match="has the collections holidays, work, and none"):
        empty.open()
    create(empty, "pictures")
    assert empty.open().info.collection == "pictures"
    assert empty.open("work").info.collection == "work"


def test_a_collection_without_a_name_is_created_as_pictures(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.db")
    create_one = partial(open_collection, uri, create=True, embed_dim=4, fingerprint="one")
    with create_one() as collection:
        assert collection.info.collection == "pictures"
    with open_store(uri) as store:
        store.drop("pictures")
        create(store, "holidays")
    with create_one() as collection:
        assert collection.info.collection == "holidays"
