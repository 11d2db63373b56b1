from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.milvus.definition.collection_config import CollectionSettings
from coca.search.query.rescored import RescoredIndex
from coca.search.query.searchable import Searchable
from coca.search.records import Record
from coca.search.vector_encoding import VectorEncoding

MakeIndex = Callable[..., Collection]
MakeRecord = Callable[..., Record]


@pytest.fixture
def pair(make_record: MakeRecord, tmp_path: Path) -> tuple[Collection, Collection]:
    """Build a collection of 4 dimensions, and the whole one."""
    records = [make_record(str(n), metadata={"n": n}) for n in range(80)]
    opened = []
    for name, form in (("small", VectorEncoding(dimensions=4)), ("whole", VectorEncoding())):
        opened.append(
            Collection.open(
                str(tmp_path / f"{name}.db"),
                embed_dim=16,
                fingerprint="model-one",
                create=True,
                settings=CollectionSettings(encoding=form),
            )
        )
        opened[-1].upsert(records)
    return opened[0], opened[1]


def test_hits_are_ranked_as_by_whole_vectors(
    pair: tuple[Collection, Collection], make_record: MakeRecord
) -> None:
    small, whole = pair
    rescored = RescoredIndex(small, whole)
    assert isinstance(rescored, Searchable)
    queries = np.stack([make_record(f"query {n}").vector for n in range(5)])
    exact = whole.search(queries, 10)
    assert [[hit.id for hit in hits] for hits in small.search(queries, 10)] != [
        [hit.id for hit in hits] for hits in exact
    ]
    found = rescored.search(queries, 10)
    assert [[hit.id for hit in hits] for hits in found] == [
        [hit.id for hit in hits] for hits in exact
    ]
    for one, other in zip(found[0], exact[0], strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)
    pages = [rescored.search(queries[:1], 4, offset=start)[0] for start in (0, 4)]
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in found[0][:8]]
    least = found[0][4].score
    assert len(rescored.search(queries[:1], 10, min_score=least - 1e-6)[0]) == 5
    assert np.array_equal(rescored.get(["3"])["3"].vector, whole.get(["3"])["3"].vector)


def test_hits_that_only_the_smaller_collection_has_keep_their_score(
    pair: tuple[Collection, Collection], make_record: MakeRecord
) -> None:
    small, whole = pair
    whole.delete(["7"])
    query = make_record("7").vector[np.newaxis]
    hits = {hit.id: hit for hit in RescoredIndex(small, whole).search(query, 80)[0]}
    before = {hit.id: hit for hit in small.search(query, 80)[0]}
    assert hits["7"] == before["7"]
    assert RescoredIndex(small, whole).get(["7"])["7"] == small.get(["7"])["7"]


def test_another_model_is_refused(pair: tuple[Collection, Collection], tmp_path: Path) -> None:
    with (
        Collection.open(
            str(tmp_path / "b.db"), embed_dim=16, fingerprint="other", create=True
        ) as other,
        pytest.raises(SearchError, match="filled by model other"),
    ):
        RescoredIndex(pair[0], other)
