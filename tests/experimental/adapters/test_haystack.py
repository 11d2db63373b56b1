from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.inference.predictor import Predictor
from coca.search.query.query_terms import embed_queries
from tiny_data import CAPTIONS

haystack = pytest.importorskip("haystack", reason="it is not installed")
ours = pytest.importorskip("coca.experimental.adapters.haystack")


def test_a_pipeline_finds_images_by_text(
    folder: Path, predictor: Predictor, images: list[Path]
) -> None:
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    documents = [haystack.Document(meta={"file_path": str(path)}) for path in images]
    embedder = ours.CoCaDocumentImageEmbedder(folder, device="cpu")
    embedded = embedder.run(documents=documents)["documents"]
    wanted = predictor.embed_images(images)
    np.testing.assert_allclose([one.embedding for one in embedded], wanted, atol=1e-6)
    assert embedded[0].meta["embedding_source"]["type"] == "image"
    # The given documents are not changed.
    assert documents[0].embedding is None
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(embedded)
    pipeline = haystack.Pipeline()
    pipeline.add_component("text", ours.CoCaTextEmbedder(folder, device="cpu"))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=5))
    pipeline.connect("text.embedding", "retriever.query_embedding")
    found = pipeline.run({"text": {"text": CAPTIONS[0]}})["retriever"]["documents"]
    cosines = wanted @ embed_queries(predictor.embed_texts, [CAPTIONS[0]])[0]
    assert [one.meta["file_path"] for one in found] == [
        str(images[row]) for row in np.argsort(-cosines)
    ]


def test_documents_without_an_image_within_the_root_are_refused(
    folder: Path, images: list[Path]
) -> None:
    root = images[0].parent
    embedder = ours.CoCaDocumentImageEmbedder(folder, root_path=str(root), device="cpu")
    inside = haystack.Document(meta={"file_path": images[0].name})
    assert embedder.run(documents=[inside])["documents"][0].embedding
    with pytest.raises(DataError, match=r"must have the path of an image .* got None"):
        embedder.run(documents=[haystack.Document(content="a text")])
    for path in ("../model0/model/config.json", "/etc/hostname"):
        with pytest.raises(DataError, match="outside of"):
            embedder.run(documents=[haystack.Document(meta={"file_path": path})])
