from collections.abc import Iterator
from pathlib import Path

import pytest

from coca.search.milvus.store import MilvusStore


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of Milvus Lite, and of a server."""
    if request.param == "lite":
        return f"milvus-lite:{tmp_path}/pictures.db"
    return str(request.getfixturevalue("milvus_server"))


@pytest.fixture
def store(uri: str) -> Iterator[MilvusStore]:
    with MilvusStore(uri) as opened:
        yield opened


@pytest.fixture
def name(store: MilvusStore, fresh: str) -> Iterator[str]:
    """Name of a collection that is dropped after the test."""
    yield fresh
    for info in store.list():
        if info.collection.startswith(fresh):
            store.drop(info.collection)
