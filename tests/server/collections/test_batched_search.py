import threading

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from coca.core.errors import SearchError
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.searchable import VectorSearch
from coca.server.collections.served_collection import BatchedSearch
from coca.server.service import Service
from coca.server.settings import ServerSettings


def test_queries_of_many_threads_have_the_hits_of_single_searches(service: Service) -> None:
    collection = service.collections["pictures"].collection
    batched = BatchedSearch(collection, ServerSettings())
    vectors = np.random.default_rng(0).standard_normal((40, collection.info.embed_dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    filters = ("", 'metadata["year"] > 2', "width >")
    found: dict[int, object] = {}

    def work(row: int) -> None:
        try:
            (hits,) = batched.search(vectors[row : row + 1], 1 + row % 4, filter=filters[row % 3])
            found[row] = [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in hits]
        except SearchError as error:
            found[row] = str(error)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(len(vectors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batched.stop()
    for row in range(len(vectors)):
        if row % 3 == 2:
            assert "width >" in str(found[row])
        else:
            (hits,) = collection.search(
                vectors[row : row + 1], 1 + row % 4, filter=filters[row % 3]
            )
            assert found[row] == [(hit.id, hit.score) for hit in hits]


def test_words_of_captions_are_read_through_it(service: Service) -> None:
    collection = service.collections["pictures"].collection
    batched = BatchedSearch(collection, ServerSettings())
    assert isinstance(batched, VectorSearch)
    found, own = (CollectionCopy(one, vectors=False) for one in (batched, collection))
    assert found.words("number 3").best(9) == own.words("number 3").best(9) != {}
    batched.stop()
