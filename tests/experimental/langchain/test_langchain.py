from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.query.query_terms import embed_queries
from coca.workflows.collections.index import index_images
from tiny_data import CAPTIONS
from tiny_model import write_model

pytestmark = pytest.mark.integrations
pytest.importorskip("langchain_core", reason="`make test-integrations` installs it")
standard = pytest.importorskip("langchain_tests.integration_tests")
ours = pytest.importorskip("coca.experimental.langchain")


@pytest.fixture(scope="module")
def uri(predictor: TorchPredictor, images: list[Path], tmp_path_factory: Any) -> str:
    """A collection of `coca index` with one given caption."""
    root = tmp_path_factory.mktemp("langchain")
    for path in images:
        (root / path.name).write_bytes(path.read_bytes())
    (root / "0.txt").write_text(CAPTIONS[0], encoding="utf-8")
    (root / "0.json").write_text('{"year": 2020}', encoding="utf-8")
    uri = str(root / "photos.db")
    index_images([root], predictor, uri=uri, captions=False)
    return uri


@pytest.fixture
def photos(uri: str) -> Iterator[Any]:
    """A retriever over the collection."""
    with ours.CoCaRetriever.open(uri, k=5) as opened:
        yield opened


class TestEmbeddings(standard.EmbeddingsIntegrationTests):  # type: ignore[name-defined, misc]
    """The tests of LangChain for embeddings."""

    @pytest.fixture(autouse=True)
    def _model(self, predictor: TorchPredictor) -> None:
        self.predictor = predictor

    @property
    def embeddings_class(self) -> Any:
        return ours.CoCaEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.predictor}


class TestRetriever(standard.RetrieversIntegrationTests):  # type: ignore[name-defined, misc]
    """The tests of LangChain for retrievers."""

    @pytest.fixture(autouse=True)
    def _collection(self, uri: str) -> Iterator[None]:
        with ours.CoCaRetriever.open(uri) as opened:
            TestRetriever.engine = opened.engine
            yield

    @property
    def retriever_constructor(self) -> Any:
        return ours.CoCaRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"engine": self.engine}

    @property
    def retriever_query_example(self) -> str:
        return "a red car"


def test_vectors_are_those_of_the_model(predictor: TorchPredictor, images: list[Path]) -> None:
    embeddings = ours.CoCaEmbeddings(predictor)
    texts = list(CAPTIONS)
    np.testing.assert_allclose(embeddings.embed_documents(texts), predictor.embed_texts(texts))
    query = embed_queries(predictor.embed_texts, [texts[1]])[0]
    np.testing.assert_allclose(embeddings.embed_query(texts[1]), query)
    vectors = embeddings.embed_image([str(path) for path in images])
    np.testing.assert_allclose(vectors, predictor.embed_images(images))


def test_documents_are_the_hits_of_a_search(photos: Any) -> None:
    documents = photos.invoke("a red car")
    hits = photos.engine.search("a red car", limit=5)
    assert [document.id for document in documents] == [hit.id for hit in hits]
    assert [document.metadata["score"] for document in documents] == [hit.score for hit in hits]
    (described,) = photos.invoke("car", filter='caption == "a red car"')
    assert (described.page_content, described.metadata["year"]) == (CAPTIONS[0], 2020)


def test_documents_have_the_fields_of_their_image(photos: Any) -> None:
    collection = photos.engine.collection
    record = next(iter(collection.get(collection.ids()).values()))
    tagged = replace(record, tags=("cat", "red"), album="holidays", time=1_700_000_000)
    collection.upsert([tagged])
    (document,) = photos.invoke("a red car", filter='album == "holidays"')
    score = document.metadata.pop("score")
    assert score == photos.engine.search("a red car", filter='album == "holidays"')[0].score
    assert (document.id, document.metadata) == (
        record.id,
        {
            **record.metadata,
            "path": record.path,
            "width": record.width,
            "height": record.height,
            "time": 1_700_000_000,
            "tags": ["cat", "red"],
            "album": "holidays",
        },
    )


def test_options_of_the_retriever_hold_for_each_query(uri: str) -> None:
    with ours.CoCaRetriever.open(uri, k=2, hybrid=False) as retriever:
        by_image = retriever.engine.search("a red car", limit=2, hybrid=False)
        documents = retriever.invoke("a red car")
        assert [document.id for document in documents] == [hit.id for hit in by_image]
        assert len(retriever.invoke("a red car", k=3)) == 3


def test_another_model_is_refused(uri: str, tmp_path: Path) -> None:
    other = load_coca(write_model(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(SearchError, match="was filled by model"):
        ours.CoCaRetriever.open(uri, model=other)
