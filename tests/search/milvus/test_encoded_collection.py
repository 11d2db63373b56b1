"""Collections that store smaller vectors, on Milvus Lite and on a server where it takes them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.core.errors import SearchError
from coca.search.ingest.migrate import migrate
from coca.search.ingest.vector_sample import sample_collection
from coca.search.milvus.collection import Collection
from coca.search.milvus.schema import CollectionSettings
from coca.search.query.collection_copy import CollectionCopy
from coca.search.records import Record
from coca.search.vector_codec import VECTOR_TYPES
from coca.search.vector_encoding import Precision, VectorEncoding

MakeIndex = Callable[..., Collection]
MakeRecord = Callable[..., Record]
FORMS = [
    VectorEncoding(dimensions=8),
    VectorEncoding(dimensions=8, projection="pca"),
    VectorEncoding(precision="binary"),
    pytest.param(
        VectorEncoding(dimensions=8, projection="pca", precision="binary"),
        marks=pytest.mark.contract,
    ),
]
"""A server takes seconds to make a collection, so only the form that has all goes to one with
`make test`."""


def drawn(make_record: MakeRecord, count: int = 60) -> list[Record]:
    captioned = (str(n) for n in range(count))
    return [
        make_record(
            name,
            metadata={"n": n},
            caption=name if n % 3 == 0 else "",
            text_vector=make_record(f"text {name}").vector if n % 3 == 0 else None,
        )
        for n, name in enumerate(captioned)
    ]


def sample(records: list[Record]) -> Callable[[int], Float32[np.ndarray, "S E"]]:
    return lambda count: np.stack([record.vector for record in records[:count]])


def queries(make_record: MakeRecord, count: int = 4) -> Float32[np.ndarray, "Q E"]:
    return np.stack([make_record(f"query {n}").vector for n in range(count)])


@pytest.fixture(params=FORMS, ids=str)
def encoded(
    request: pytest.FixtureRequest, make_index: MakeIndex, make_record: MakeRecord, fresh: str
) -> Collection:
    encoding = request.param
    settings = CollectionSettings(encoding=encoding)
    made = make_index(collection=fresh, settings=settings, basis=sample(drawn(make_record)))
    if VECTOR_TYPES[encoding.precision] not in made.capabilities.vector_types:
        pytest.skip(f"{made.capabilities.name} has no vectors of {encoding.precision}")
    return made


def test_scores_are_inner_products_of_queries_and_returned_vectors(
    encoded: Collection, make_record: MakeRecord
) -> None:
    records = drawn(make_record)
    encoded.upsert(records)
    encoded.flush()
    read = encoded.get(record.id for record in records)
    assert {record.id for record in records} == read.keys()
    assert encoded.info.embed_dim == len(records[0].vector)
    for on in ("image", "text"):
        found = encoded.search(queries(make_record), 10, on=on)
        for query, hits in zip(queries(make_record), found, strict=True):
            vectors = {
                id: record.vector if on == "image" else record.text_vector
                for id, record in read.items()
            }
            scores = {id: float(query @ one) for id, one in vectors.items() if one is not None}
            assert [hit.score for hit in hits] == pytest.approx(
                sorted(scores.values(), reverse=True)[:10], abs=1e-5
            )
            assert [hit.score for hit in hits] == pytest.approx(
                [scores[hit.id] for hit in hits], abs=1e-5
            )
    filtered = encoded.search(queries(make_record), 3, filter='metadata["n"] > 50')
    assert all(int(hit.id) > 50 for hits in filtered for hit in hits)


def test_updates_and_copies_keep_the_stored_vectors(
    encoded: Collection, make_index: MakeIndex, make_record: MakeRecord, fresh: str, tmp_path: Path
) -> None:
    records = drawn(make_record)
    encoded.upsert(records[:50])
    before = encoded.get(["3", "4"])
    # A record that was read and is written again, as after a change of its metadata.
    encoded.upsert(before.values())
    copy = make_index(
        collection=f"{fresh}_copy",
        settings=CollectionSettings(encoding=encoded.info.encoding),
        basis=encoded.codec,
    )
    migrate(encoded, copy, tmp_path / "files")
    assert copy.info.encoding == encoded.info.encoding
    for collection in (encoded, copy):
        # An update after both were made uses the same basis.
        collection.upsert(records[50:])
        for id, record in collection.get(["3", "4", "55"]).items():
            expected = before[id] if id in before else encoded.get([id])[id]
            np.testing.assert_allclose(record.vector, expected.vector, atol=1e-5)


def test_an_in_memory_index_ranks_as_the_collection(
    encoded: Collection, make_record: MakeRecord
) -> None:
    encoded.upsert(drawn(make_record))
    found = encoded.search(queries(make_record), 5)
    held = CollectionCopy(encoded).search(queries(make_record), 5)
    for hits, exact in zip(found, held, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([h.score for h in exact], abs=1e-5)


def test_a_collection_opens_with_its_encoding_and_refuses_another(
    make_index: MakeIndex, make_record: MakeRecord, fresh: str
) -> None:
    records = drawn(make_record)
    form = VectorEncoding(dimensions=8, projection="pca")
    options: dict[str, Any] = {"collection": fresh, "settings": CollectionSettings(encoding=form)}
    made = make_index(**options, basis=sample(records))
    made.upsert(records)
    stored = made.get(["1"])["1"].vector
    made.close()
    # Without a sample, as the basis is stored.
    again = make_index(**options)
    assert again.info.encoding == form
    assert np.array_equal(again.get(["1"])["1"].vector, stored)
    assert make_index(collection=fresh).info.encoding == form
    other = CollectionSettings(encoding=VectorEncoding(dimensions=4))
    with pytest.raises(
        SearchError,
        match="stores 8 dimensions by pca, float32, and not 4 dimensions by truncate, float32",
    ):
        make_index(collection=fresh, settings=other)


def test_a_whole_collection_can_be_copied_to_a_smaller_one(
    make_index: MakeIndex, make_record: MakeRecord, fresh: str, tmp_path: Path
) -> None:
    records = drawn(make_record)
    whole = make_index(collection=fresh)
    whole.upsert(records)
    settings = CollectionSettings(encoding=VectorEncoding(dimensions=8, projection="pca"))
    small = make_index(
        collection=f"{fresh}_small",
        settings=settings,
        basis=lambda count: sample_collection(whole, count),
    )
    migrate(whole, small, tmp_path / "files")
    cosines = [
        float(record.vector @ small.get([record.id])[record.id].vector) for record in records[:5]
    ]
    assert min(cosines) > 0.3


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_lite_stores_floats_with_a_warning(
    precision: Precision, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    form = CollectionSettings(encoding=VectorEncoding(dimensions=8, precision=precision))
    options: dict[str, Any] = {"embed_dim": 16, "fingerprint": "one", "create": True}
    for _ in range(2):  # also where the collection exists
        with (
            caplog.at_level(logging.WARNING),
            Collection.open(str(tmp_path / "a.db"), settings=form, **options) as made,
        ):
            assert made.info.encoding == VectorEncoding(dimensions=8)
    assert f"Lite 3.2 cannot keep a collection with precision={precision}: it is" in caplog.text


@pytest.mark.contract
def test_a_server_refuses_what_it_cannot_store(make_index: MakeIndex, fresh: str) -> None:
    form = VectorEncoding(precision="int8")
    settings = CollectionSettings(encoding=form, fallback=False)
    with pytest.raises(SearchError, match="cannot keep a collection with precision=int8"):
        make_index(collection=fresh, settings=settings)
