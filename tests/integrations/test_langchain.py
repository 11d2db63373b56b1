from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import ConfigError, SearchError
from coca.inference.predictor import Predictor
from coca.search.query.query_terms import embed_queries
from coca.workflows.collections.index import index_images
from tiny_data import CAPTIONS
from tiny_model import write_model

pytestmark = pytest.mark.integrations
pytest.importorskip("langchain_core", reason="`make test-integrations` installs it")
standard = pytest.importorskip("langchain_tests.integration_tests")
ours = pytest.importorskip("coca.integrations.langchain")


class TestEmbeddings(standard.EmbeddingsIntegrationTests):  # type: ignore[name-defined, misc]
    """The tests of LangChain for embeddings."""

    @pytest.fixture(autouse=True)
    def _model(self, folder: Path) -> None:
        self.folder = folder

    @property
    def embeddings_class(self) -> Any:
        return ours.CoCaEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder, "device": "cpu"}


class TestVectorStore(standard.VectorStoreIntegrationTests):  # type: ignore[name-defined, misc]
    """The tests of LangChain for vector stores."""

    @pytest.fixture
    def vectorstore(self, predictor: Predictor, tmp_path: Path) -> Iterator[Any]:
        store = ours.CoCaVectorStore.open(
            str(tmp_path / "texts.db"), embedding=predictor, create=True
        )
        yield store
        store.close()


@pytest.fixture
def store(predictor: Predictor, images: list[Path], tmp_path: Path) -> Iterator[Any]:
    """A store over a collection of `coca index`."""
    (tmp_path / "photos").mkdir()
    for path in images:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "0.txt").write_text(CAPTIONS[0], encoding="utf-8")
    (tmp_path / "photos" / "0.json").write_text('{"year": 2020}', encoding="utf-8")
    uri = str(tmp_path / "photos.db")
    index_images([tmp_path / "photos"], predictor, uri=uri, captions=False)
    store = ours.CoCaVectorStore.open(uri)
    yield store
    store.close()


def test_vectors_are_those_of_the_model(predictor: Predictor, images: list[Path]) -> None:
    embed = ours.CoCaEmbeddings(predictor)
    texts = list(CAPTIONS)
    np.testing.assert_allclose(embed.embed_documents(texts), predictor.embed_texts(texts))
    query = embed_queries(predictor.embed_texts, [texts[1]])[0]
    np.testing.assert_allclose(embed.embed_query(texts[1]), query)
    uris = [str(path) for path in images]
    np.testing.assert_allclose(embed.embed_image(uris), predictor.embed_images(images))


def test_a_collection_of_coca_index_is_a_retriever(store: Any, predictor: Predictor) -> None:
    documents = store.as_retriever(search_kwargs={"k": 5}).invoke("a red car")
    hits = store.engine.search("a red car", k=5)
    assert [one.id for one in documents] == [hit.id for hit in hits]
    assert [one.metadata["path"] for one in documents] == [hit.path for hit in hits]
    (described,) = store.similarity_search("car", k=5, filter='caption == "a red car"')
    assert described.page_content == CAPTIONS[0]
    assert described.metadata["year"] == 2020
    (read,) = store.get_by_ids([described.id, "missing"])
    assert read.metadata == {k: v for k, v in described.metadata.items() if k != "score"}
    scored = store.similarity_search_with_score("a red car", k=2)
    assert [score for _, score in scored] == [hit.score for hit in hits[:2]]
    vector = embed_queries(predictor.embed_texts, ["a red car"])[0].tolist()
    by_image = store.similarity_search("a red car", k=5, hybrid=False)
    assert store.similarity_search_by_vector(vector, k=5) == by_image


def test_an_image_finds_itself_and_relevance_is_in_0_to_1(store: Any) -> None:
    path = store.similarity_search("x", k=1)[0].metadata["path"]
    assert store.similarity_search_by_image(path, k=1)[0].metadata["path"] == path
    pairs = store.similarity_search_with_relevance_scores("a red car", k=5)
    cosines = [score for _, score in store.similarity_search_with_score("a red car", k=5)]
    np.testing.assert_allclose([score for _, score in pairs], (1 + np.array(cosines)) / 2)


def test_mmr_with_relevance_only_is_a_search_and_else_differs_by_its_own_rule(store: Any) -> None:
    near = store.similarity_search("a red car", k=3, hybrid=False)
    assert store.max_marginal_relevance_search("a red car", k=3, lambda_mult=1.0) == near
    spread = store.max_marginal_relevance_search("a red car", k=3, fetch_k=5, lambda_mult=0.0)
    vectors = store.collection.get([one.id for one in spread])
    first, second = (vectors[one.id].vector for one in spread[:2])
    others = store.collection.get(store.collection.ids())
    # With diversity only, the second is the farthest from the first.
    assert first @ second == pytest.approx(min(one.vector @ first for one in others.values()))


def test_added_images_are_found_by_path_and_caption(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    store = ours.CoCaVectorStore.open(str(tmp_path / "own.db"), embedding=predictor, create=True)
    captions = [CAPTIONS[0], *[""] * (len(images) - 1)]
    ids = store.add_images(images, [{"n": n} for n in range(len(images))], captions=captions)
    (found,) = store.similarity_search_by_image(images[2], k=1)
    assert found.id == ids[2]
    assert {name: found.metadata[name] for name in ("n", "path")} == {
        "n": 2,
        "path": str(images[2]),
    }
    (found,) = store.similarity_search(CAPTIONS[0], k=3, on="text")
    assert found.page_content == CAPTIONS[0]
    with pytest.raises(ConfigError, match="captions must have one item for each of 5, got 1"):
        store.add_images(images, captions=["one"])
    with pytest.raises(ConfigError, match="delete needs ids"):
        store.delete()
    store.close()


def test_documents_have_the_fields_of_their_image(store: Any, images: list[Path]) -> None:
    record = next(iter(store.collection.get(store.collection.ids()).values()))
    changed = replace(record, tags=("cat", "red"), album="holidays", time=1_700_000_000)
    store.collection.upsert([changed])
    found = store.similarity_search("a red car", k=5, filter={"album": "holidays"})
    (hit,) = store.engine.search("a red car", k=5, filter='album == "holidays"')
    assert [one.id for one in found] == [record.id]
    assert found[0].metadata == {
        **record.metadata,
        "path": record.path,
        "width": record.width,
        "height": record.height,
        "time": 1_700_000_000,
        "tags": ["cat", "red"],
        "album": "holidays",
        "score": hit.score,
    }


def test_a_filter_may_be_a_dictionary(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    uri = str(tmp_path / "own.db")
    with ours.CoCaVectorStore.open(uri, embedding=predictor, create=True) as store:
        kinds = [{"n": n, "kind": "even" if n % 2 == 0 else "odd"} for n in range(5)]
        store.add_images(images, kinds)
        records = store.collection.get(store.collection.ids()).values()
        tags = {0: ("a",), 1: ("a", "b"), 2: ("b",), 3: (), 4: ()}
        store.collection.upsert(replace(it, tags=tags[it.metadata["n"]]) for it in records)

        def found(filter: Any) -> list[int]:
            documents = store.similarity_search("a red car", k=9, filter=filter)
            return sorted(one.metadata["n"] for one in documents)

        assert found(None) == found({}) == [0, 1, 2, 3, 4]
        assert found({"kind": "odd"}) == [1, 3]
        assert found({"kind": "even", "n": {"$gt": 0, "$lte": 2}}) == [2]
        assert found({"n": {"$in": [0, 3]}}) == found({"metadata.n": {"$in": [0, 3]}}) == [0, 3]
        assert found({"$or": [{"n": 0}, {"$not": {"n": {"$lt": 4}}}]}) == [0, 4]
        assert found({"$and": [{"n": {"$ne": 0}}, {"n": {"$nin": [1, 2]}}]}) == [3, 4]
        assert found({"tags": ["a", "b"]}) == [1]
        assert found({"tags": {"$in": ["a", "b"]}}) == [0, 1, 2]
        assert found({"tags": {"$nin": ["a"]}}) == [2, 3, 4]
        assert found({"width": {"$gt": 0}, "path": str(images[4])}) == [4]
        for wrong in ({"n": {"$regex": "x"}}, {"tags": {"$gt": "a"}}):
            with pytest.raises(ConfigError, match=r"\$(regex|gt)"):
                found(wrong)
        unclear: list[tuple[Any, str]] = [
            ({"$nor": [{"n": 1}]}, r"'\$nor' .* choose of \$and, \$or, \$not"),
            ({"$gt": 3}, r"'\$gt' .* belongs to a key"),
            ({3: 3}, "keys of a filter must be text, got 3"),
            ({"n": {}}, "'n' has no condition"),
            ({"$not": {}}, "dictionaries with conditions, got {}"),
            ({"$or": [{"n": 1}, {}]}, "dictionaries with conditions, got {}"),
            ({"$and": {"n": 1}}, r"\$and of a filter takes a list"),
            ({"$or": "n"}, r"\$or of a filter takes a list"),
            ({"$and": ["n"]}, "dictionaries with conditions, got 'n'"),
        ]
        for filter, sentence in unclear:
            with pytest.raises(ConfigError, match=sentence):
                found(filter)


@pytest.mark.filterwarnings("error")
def test_images_with_ids_of_their_own_can_be_reranked(
    predictor: Predictor, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"photo-{n}" for n in range(5)]
    uri = str(tmp_path / "own.db")
    with ours.CoCaVectorStore.open(uri, embedding=predictor, create=True) as store:
        assert store.add_images(images, ids=ids) == ids
        hits = store.engine.search("a red car", k=5, rerank=5)
        assert sorted(hit.id for hit in hits) == ids
        assert all(hit.log_likelihood is not None for hit in hits)
    assert not caplog.records


def test_texts_make_a_collection_of_their_own_model_only(
    predictor: Predictor, tmp_path: Path
) -> None:
    uri = str(tmp_path / "texts.db")
    embed = ours.CoCaEmbeddings(predictor)
    store = ours.CoCaVectorStore.from_texts(list(CAPTIONS), embed, uri=uri, collection="texts")
    assert store.embeddings is embed
    assert store.similarity_search(CAPTIONS[2], k=1)[0].page_content == CAPTIONS[2]
    # The id of a text is its hash, so a repeated text is one record.
    store.add_texts([CAPTIONS[2]])
    assert store.collection.count() == len(CAPTIONS)
    store.close()
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(SearchError, match="was filled by model"):
        ours.CoCaVectorStore.open(uri, collection="texts", embedding=other)
    foreign = standard.VectorStoreIntegrationTests.get_embeddings()
    with pytest.raises(ConfigError, match="must be a CoCaEmbeddings"):
        ours.CoCaVectorStore.from_texts(["a"], foreign, uri=uri)
    with pytest.raises(ConfigError, match="create needs the embedding"):
        ours.CoCaVectorStore.open(uri, create=True)
