from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import ConfigError
from coca.experimental.adapters.pymilvus_model import CoCaEmbeddingFunction, CoCaRerankFunction
from coca.inference.predictor import Predictor
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import embed_queries
from coca.search.stores import open_collection
from coca.workflows.collections.index import index_images
from tiny_data import CAPTIONS

TEXTS = list(CAPTIONS[:3])
LONG = "a photo of the red car"


def test_vectors_are_those_of_the_model(predictor: Predictor, images: list[Path]) -> None:
    embed = CoCaEmbeddingFunction(predictor)
    assert embed.dim == predictor.embed_dim
    wanted = predictor.embed_texts(TEXTS)
    np.testing.assert_array_equal(embed(TEXTS), wanted)
    queries = embed_queries(predictor.embed_texts, TEXTS)
    np.testing.assert_array_equal(embed.encode_queries(TEXTS), queries)
    assert embed.encode_queries([]) == []
    np.testing.assert_array_equal(embed.encode_documents(images), predictor.embed_images(images))
    of_texts = CoCaEmbeddingFunction(predictor, documents="text")
    np.testing.assert_array_equal(of_texts.encode_documents(TEXTS), wanted)
    with pytest.raises(ConfigError, match="must be image or text, got 'video'"):
        CoCaEmbeddingFunction(predictor, documents="video")


@pytest.mark.parametrize("query", ["a red car", "show me dogs.", LONG])
def test_the_ranks_are_those_of_a_search_with_reranking(
    predictor: Predictor, images: list[Path], tmp_path: Path, query: str
) -> None:
    index_images([images[0].parent], predictor, uri=str(tmp_path / "a.db"), captions=False)
    with open_collection(str(tmp_path / "a.db")) as collection:
        hits = SearchEngine(predictor, collection).search(query, rerank=len(images), hybrid=False)
    results = CoCaRerankFunction(predictor)(query, images, top_k=len(images))
    assert [str(one.text) for one in results] == [hit.path for hit in hits]
    for result, hit in zip(results, hits, strict=True):
        assert result.score == pytest.approx(hit.rank_score, abs=1e-3)
