import asyncio
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from coca.inference.predictor import Predictor
from coca.search.query.query_terms import embed_queries
from tiny_data import CAPTIONS

pytest.importorskip("llama_index.core", reason="it is not installed")
ours = pytest.importorskip("coca.experimental.adapters.llama_index")

TEXTS = list(CAPTIONS)


def test_texts_and_images_have_the_vectors_of_the_model(
    predictor: Predictor, images: list[Path]
) -> None:
    embed = ours.CoCaEmbedding(predictor, embed_batch_size=2)
    assert embed.model_name == predictor.source
    texts, vectors = predictor.embed_texts(TEXTS), predictor.embed_images(images)
    np.testing.assert_allclose(embed.get_text_embedding_batch(TEXTS), texts, atol=1e-6)
    (query,) = embed_queries(predictor.embed_texts, [TEXTS[0]])
    np.testing.assert_allclose(embed.get_query_embedding(TEXTS[0]), query, atol=1e-6)
    paths = [str(path) for path in images]
    np.testing.assert_allclose(embed.get_image_embedding_batch(paths), vectors, atol=1e-6)
    in_memory = BytesIO(images[0].read_bytes())
    np.testing.assert_allclose(embed.get_image_embedding(in_memory), vectors[0], atol=1e-6)
    found = asyncio.run(embed.aget_image_embedding(paths[1]))
    np.testing.assert_allclose(found, vectors[1], atol=1e-6)
    found = asyncio.run(embed.aget_query_embedding(TEXTS[0]))
    np.testing.assert_allclose(found, query, atol=1e-6)
