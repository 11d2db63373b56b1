import asyncio
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

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


@pytest.mark.parametrize("name", ["embed_texts", "embed_images"])
def test_coroutines_leave_the_event_loop_to_others(
    predictor: Predictor, images: list[Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    embed, other_ran, compute = ours.CoCaEmbedding(predictor), Event(), getattr(predictor, name)

    def slow(inputs: Any) -> Any:
        assert other_ran.wait(60), "the event loop was blocked"
        return compute(inputs)

    async def both(embedding: Any) -> None:
        async def other() -> None:
            other_ran.set()

        await asyncio.gather(embedding, other())
        other_ran.clear()

    monkeypatch.setattr(predictor, name, slow)
    path = str(images[0])
    starts: dict[str, list[Callable[[], Any]]] = {
        "embed_texts": [
            lambda: embed.aget_query_embedding(TEXTS[0]),
            lambda: embed.aget_text_embedding(TEXTS[0]),
            lambda: embed.aget_text_embedding_batch(TEXTS),
        ],
        "embed_images": [
            lambda: embed.aget_image_embedding(path),
            lambda: embed.aget_image_embedding_batch([path]),
        ],
    }
    for start in starts[name]:
        asyncio.run(both(start()))


def test_an_index_of_llama_index_retrieves_by_it(predictor: Predictor) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    embed = ours.CoCaEmbedding(predictor)
    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=embed)
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[1])
    assert found.text == TEXTS[1]
    query = embed_queries(predictor.embed_texts, [TEXTS[1]])[0]
    assert found.score == pytest.approx(query @ predictor.embed_texts(TEXTS[1])[0], abs=1e-5)


def test_settings_name_the_class_and_not_the_weights(predictor: Predictor) -> None:
    settings = ours.CoCaEmbedding(predictor).to_dict()
    assert settings["class_name"] == "CoCaEmbedding"
    assert settings["model_name"] == predictor.source
    assert not any("predictor" in name for name in settings)
