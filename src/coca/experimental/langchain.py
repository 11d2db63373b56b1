"""Retriever of LangChain over a collection of `coca index`, and its embeddings.

with CoCaRetriever.open("coca.db", k=5) as retriever:
    documents = retriever.invoke("a red car")
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pydantic import Field, PrivateAttr

from coca.core.extras import extra_imports
from coca.predict.predictor import Predictor
from coca.processing.image_file import ImageInput
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import embed_queries
from coca.search.records import ALBUM, HEIGHT, PATH, TAGS, TIME, WIDTH, Hit
from coca.workflows.collections.collection_model import open_search

with extra_imports("langchain_core", extra="langchain"):
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever


class CoCaEmbeddings(Embeddings):
    """Embeddings of texts and images in one space, as vectors of length 1."""

    def __init__(self, model: Predictor) -> None:
        """Embed with a model of `coca.load`."""
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts."""
        return self.model.embed_texts(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Embed one query, as `coca search` does."""
        return embed_queries(self.model.embed_texts, [text])[0].tolist()

    def embed_image(self, uris: Sequence[ImageInput]) -> list[list[float]]:
        """Embed images: paths, bytes, PIL images or arrays.

        Raises:
            DataError: An image cannot be read; the message names it.
        """
        return self.model.embed_images(uris).tolist()


class CoCaRetriever(BaseRetriever):
    """Retriever of the images of a collection for a text.

    A document's content is the caption of the image. Its metadata are those of the record, the
    `score`, which is its cosine, and where they are known `path`, `width` and `height` (pixels),
    `time` (seconds since 1970), `tags` and `album`.

    Args:
        engine: Search engine of an open collection.
        k: Maximum number of documents.
        options: Further arguments of `SearchEngine.search`, such as `filter`, `hybrid` and
            `rerank`. `invoke` accepts them as well, and `k`, for one query.
    """

    engine: SearchEngine
    k: int = 4
    options: dict[str, Any] = Field(default_factory=dict)
    _opened: ExitStack = PrivateAttr(default_factory=ExitStack)

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        collection: str | None = None,
        model: Predictor | None = None,
        token: str = "",
        k: int = 4,
        **options: Any,
    ) -> "CoCaRetriever":
        """Open a collection with the model that filled it; `close` closes it.

        Args:
            uri: Path of a SQLite file, or address of a Milvus server.
            collection: Name of the collection; default: the only one, else `pictures`.
            model: The model; default: the model that the collection names.
            token: `"user:password"` or an API key, if the server requires one.
            k: Maximum number of documents.
            **options: Further arguments of `SearchEngine.search`.

        Raises:
            SearchError: The collection is missing, or was filled by another model.
            ModelError: The model cannot be loaded.
        """
        with ExitStack() as opened:
            engine = opened.enter_context(
                open_search(uri, collection=collection, token=token, model=model)
            )
            retriever = cls(engine=engine, k=k, options=options)
            retriever._opened = opened.pop_all()
        return retriever

    def close(self) -> None:
        """Close the collection that `open` opened; closing twice does nothing."""
        self._opened.close()

    def __enter__(self) -> "CoCaRetriever":
        """Return the retriever, whose collection is closed at the end of the `with` block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the collection."""
        self.close()

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any, **options: Any
    ) -> list[Document]:
        limit = options.pop("k", self.k)
        hits = self.engine.search(query, limit=limit, **{**self.options, **options})
        return [_document(hit) for hit in hits]


def _document(hit: Hit) -> Document:
    fields = {name: getattr(hit, name) for name in (PATH, WIDTH, HEIGHT, TIME, ALBUM)}
    fields[TAGS] = list(hit.tags)
    known = {name: value for name, value in fields.items() if value}
    metadata = {**hit.metadata, **known, "score": hit.score}
    return Document(id=hit.id, page_content=hit.caption, metadata=metadata)
