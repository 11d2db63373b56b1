"""Embeddings and vector store of LangChain: CoCa's vectors, and a collection as a retriever.

store = CoCaVectorStore.open("coca.db")
store.as_retriever(search_kwargs={"k": 5}).invoke("a red car")
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coca.core.errors import ConfigError
from coca.core.extras import extra_imports
from coca.core.files.local_files import read_file
from coca.integrations.models import ModelName, as_predictor
from coca.runtime.inputs import ImageInput
from coca.search.filters import all_of, any_of, has_all_tags, has_any_tag, negate, where
from coca.search.ingest.photo_metadata import PHOTO_LISTS, read_header
from coca.search.milvus.collection import Collection
from coca.search.mining.selection import mmr
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import embed_queries
from coca.search.records import (
    ALBUM,
    CAPTION,
    CAPTION_SOURCE,
    HEIGHT,
    ID,
    METADATA,
    PATH,
    READ_METADATA,
    TAGS,
    TIME,
    WIDTH,
    Hit,
    Origin,
    Record,
    content_id,
)
from coca.workflows.collections.collection_model import fitted, model_of, open_collection
from coca.workflows.collections.image_resolver import ImageResolver

with extra_imports("langchain_core", extra="langchain"):
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore

_COLUMNS = (ID, PATH, CAPTION, CAPTION_SOURCE, ALBUM, WIDTH, HEIGHT, TIME)
_OPERATORS = dict(
    zip(
        ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"),
        ("==", "!=", ">", ">=", "<", "<=", "in", "not in"),
        strict=True,
    )
)


class CoCaEmbeddings(Embeddings):
    """Embeddings of texts and images in one space, as vectors of length 1."""

    def __init__(self, model: ModelName, *, device: str | None = None) -> None:
        """Load the model.

        Args:
            model: A loaded model, or a name that `coca.load` accepts.
            device: Torch device of a model that is loaded.
        """
        self.model = as_predictor(model, device=device)

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


class CoCaVectorStore(VectorStore):
    """Vector store over a collection of `coca index`, or over one that it fills itself.

    A document's content is the caption of the image, or the added text. Its metadata are those of
    the record, and of an image also `path`, `width` and `height` (pixels), `time` (seconds since
    1970), `tags` and `album` where they are known, and in a search the `score`, its cosine.

    Searches take a `filter`: an expression of Milvus, or a dictionary such as
    `{"year": {"$gte": 2020}, "tags": ["cat"]}`. Its keys are columns of the collection or keys of
    the metadata, such as those of `coca.search.ingest.photo_metadata.PhotoMetadata`. `tags` and
    `people` with a list keep images with all of them. Operators are `$eq $ne $gt $gte
    $lt $lte $in $nin`, and `$and $or $not` of dictionaries.
    """

    def __init__(self, embedding: CoCaEmbeddings | ModelName, collection: Collection) -> None:
        """Combine a model and an open collection; the store does not close the collection.

        Args:
            embedding: The model that filled the collection.
            collection: An open collection.

        Raises:
            SearchError: The collection was filled by another model.
        """
        self._embeddings = _embeddings(embedding)
        self.collection = collection
        self.engine = SearchEngine(self._embeddings.model, collection, image_reader=ImageResolver)

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        collection: str = "pictures",
        embedding: CoCaEmbeddings | ModelName | None = None,
        token: str = "",
        create: bool = False,
    ) -> "CoCaVectorStore":
        """Open a collection with the model that filled it; `close` closes it.

        Args:
            uri: Path that ends in `.db`, or address of a Milvus server.
            collection: Name of the collection.
            embedding: The model; default: the model that the collection names.
            token: `"user:password"` or an API key, if the server requires one.
            create: Create the collection if it is missing; needs `embedding`.

        Raises:
            ConfigError: `create` without `embedding`.
            SearchError: The collection is missing, or was filled by another model.
            ModelError: The model cannot be loaded.
        """
        if embedding is None:
            if create:
                raise ConfigError("create needs the embedding of the new collection")
            opened = Collection.open(uri, collection, token=token)
            try:
                return cls(
                    fitted(as_predictor(model_of(opened.info, runtime="torch")), opened.info),
                    opened,
                )
            except BaseException:
                opened.close()
                raise
        embeddings = _embeddings(embedding)
        opened = open_collection(embeddings.model, uri, collection, token=token, create=create)
        return cls(embeddings, opened)

    def close(self) -> None:
        """Close the collection; closing twice does nothing."""
        self.collection.close()

    def __enter__(self) -> "CoCaVectorStore":
        """Return the store, whose collection is closed at the end of the `with` block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the collection."""
        self.close()

    @property
    def embeddings(self) -> CoCaEmbeddings:
        """The embeddings of queries and documents."""
        return self._embeddings

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        uri: str = "coca.db",
        **options: Any,
    ) -> "CoCaVectorStore":
        """Open or create a collection, and add texts.

        Args:
            texts: Texts to add.
            embedding: A `CoCaEmbeddings`.
            metadatas: Metadata of each text.
            ids: Id of each text; default: the hash of the text.
            uri: Path that ends in `.db`, or address of a Milvus server.
            **options: Further arguments of `open`.

        Raises:
            ConfigError: The embedding is not a `CoCaEmbeddings`.
            SearchError: The collection was filled by another model.
        """
        if not isinstance(embedding, CoCaEmbeddings):
            raise ConfigError(
                f"embedding must be a CoCaEmbeddings, got {type(embedding).__name__}: the "
                "collection stores the fingerprint of its model"
            )
        store = cls.open(uri, embedding=embedding, create=True, **options)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[str]:
        """Embed texts and upsert them; a search compares their vectors like those of images.

        Args:
            texts: Texts to add.
            metadatas: Metadata of each text; default: none.
            ids: Id of each text; default, also of a missing id: the hash of the text.
            **options: Not used.

        Returns:
            The ids.

        Raises:
            ConfigError: The numbers of texts, metadata and ids differ.
            SearchError: A text cannot be stored.
        """
        texts = list(texts)
        vectors = self._embeddings.model.embed_texts(texts)
        given = _of_each(len(texts), "metadatas", metadatas, {})
        records = [
            Record(
                id=id or content_id(text.encode()),
                path="",
                caption=text,
                metadata=metadata,
                vector=vector,
                text_vector=vector,
            )
            for text, vector, metadata, id in zip(
                texts, vectors, given, _of_each(len(texts), "ids", ids, None), strict=True
            )
        ]
        return self._add(records)

    def add_images(
        self,
        uris: Sequence[str | Path],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        captions: Sequence[str] | None = None,
        ids: Sequence[str | None] | None = None,
    ) -> list[str]:
        """Embed image files and upsert them.

        `coca index` does so for many files: in batches, with captions, and without reading
        unchanged files again.

        Args:
            uris: Paths of local image files.
            metadatas: Metadata of each image; default: none.
            captions: Caption of each image, which becomes the content of its document.
            ids: Id of each image; default, also of a missing id: the hash of its bytes.

        Returns:
            The ids.

        Raises:
            ConfigError: The numbers of images, metadata, captions and ids differ.
            DataError: An image cannot be read; the message names it.
            SearchError: A record cannot be stored.
        """
        count, model = len(uris), self._embeddings.model
        texts = _of_each(count, "captions", captions, "")
        with_text = [row for row, text in enumerate(texts) if text]
        of_texts = model.embed_texts([texts[row] for row in with_text])
        text_vectors = dict(zip(with_text, of_texts, strict=True))
        files = [read_file(str(uri)) for uri in uris]
        columns = (_of_each(count, "metadatas", metadatas, {}), _of_each(count, "ids", ids, None))
        vectors = model.embed_images(files)
        records = []
        for row, (uri, data, metadata, id) in enumerate(zip(uris, files, *columns, strict=True)):
            content, header = content_id(data), read_header(data)
            records.append(
                Record(
                    id=id or content,
                    path=str(uri),
                    caption=texts[row],
                    width=header.width,
                    height=header.height,
                    time=header.time,
                    tags=header.annotation.tags,
                    metadata={**header.annotation.metadata, **metadata},
                    vector=vectors[row],
                    text_vector=text_vectors.get(row),
                    origin=Origin(
                        content=content if id and id != content else "", read=READ_METADATA
                    ),
                )
            )
        return self._add(records)

    def delete(self, ids: list[str] | None = None, **options: Any) -> bool:
        """Delete records; missing ids are ignored.

        Raises:
            ConfigError: No ids are given; `drop_collection` deletes all records.
        """
        if ids is None:
            raise ConfigError("delete needs ids; drop the collection to delete all records")
        self.collection.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Read documents by id, in this order; missing ids are skipped."""
        found = self.collection.get(ids)
        return [_document(found[id]) for id in ids if id in found]

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Find the documents nearest to a text.

        Args:
            query: Query text.
            k: Maximum number of documents.
            **options: Further arguments of `SearchEngine.search`: `filter`, `hybrid`, `rerank`, ...

        Raises:
            SearchError: An option is invalid, or the collection cannot answer.
        """
        return [
            _document(hit) for hit in self.engine.search(query, k=k, **_search_options(options))
        ]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Find the documents nearest to a text, with their cosines.

        The order is that of `similarity_search`: with captions that people gave, it is not by
        cosine alone, unless `hybrid=False`.
        """
        hits = self.engine.search(query, k=k, **_search_options(options))
        return [(_document(hit), hit.score) for hit in hits]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **options: Any
    ) -> list[Document]:
        """Find the documents nearest to a vector."""
        hits = self._by_vector(embedding, k, options)
        return [_document(hit) for hit in hits]

    def similarity_search_by_image(
        self, uri: ImageInput, k: int = 4, **options: Any
    ) -> list[Document]:
        """Find the documents nearest to an image.

        Raises:
            DataError: The image cannot be read.
        """
        return [
            _document(hit) for hit in self.engine.search(image=uri, k=k, **_search_options(options))
        ]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Find documents that are near a vector and differ from each other (MMR).

        Args:
            embedding: Query vector.
            k: Maximum number of documents.
            fetch_k: Number of nearest documents to choose from.
            lambda_mult: 0 for the largest diversity to 1 for relevance only.
            **options: Further arguments of `SearchEngine.search`.
        """
        hits = self._by_vector(embedding, max(k, fetch_k), options)
        records = self.collection.get([hit.id for hit in hits])
        hits = [hit for hit in hits if hit.id in records]
        if not hits:
            return []
        chosen = mmr(
            np.stack([records[hit.id].vector for hit in hits]),
            np.array([hit.score for hit in hits]),
            k,
            diversity=1 - lambda_mult,
        )
        return [_document(hits[row]) for row, _ in chosen]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Find documents that are near a text and differ from each other (MMR)."""
        return self.max_marginal_relevance_search_by_vector(
            self._embeddings.embed_query(query), k, fetch_k, lambda_mult, **options
        )

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Map cosines to [0, 1]."""
        return lambda cosine: min(max((1 + cosine) / 2, 0.0), 1.0)

    def _by_vector(self, embedding: list[float], k: int, options: Mapping[str, Any]) -> list[Hit]:
        vector = np.asarray(embedding)
        return self.engine.search(vector=vector, k=k, **_search_options(options))

    def _add(self, records: Sequence[Record]) -> list[str]:
        self.collection.upsert(records)
        return [record.id for record in records]


def _embeddings(embedding: CoCaEmbeddings | ModelName) -> CoCaEmbeddings:
    return embedding if isinstance(embedding, CoCaEmbeddings) else CoCaEmbeddings(embedding)


def _document(found: Hit | Record) -> Document:
    """Convert a hit or record to a document."""
    fields: dict[str, Any] = {}
    if found.path:
        fields = {name: getattr(found, name) for name in (PATH, WIDTH, HEIGHT, TIME, ALBUM)}
        fields[TAGS] = list(found.tags)
        fields = {name: value for name, value in fields.items() if value}
        if isinstance(found, Hit):
            fields["score"] = found.score
    return Document(id=found.id, page_content=found.caption, metadata={**found.metadata, **fields})


def _search_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a search with its filter as an expression."""
    given = options.get("filter")
    if given is None:
        return {name: value for name, value in options.items() if name != "filter"}
    return {**options, "filter": _expression(given) if isinstance(given, Mapping) else given}


def _expression(filter: Mapping[Any, Any]) -> str:
    """Convert a dictionary of conditions, all of which apply, to an expression of Milvus."""
    parts: list[str] = []
    for key, value in filter.items():
        if not isinstance(key, str):
            raise ConfigError(f"the keys of a filter must be text, got {key!r}")
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple):
                raise ConfigError(f"{key} of a filter takes a list of filters, got {value!r}")
            join = all_of if key == "$and" else any_of
            parts.append(join(*(_part(key, one) for one in value)))
        elif key == "$not":
            parts.append(negate(_part(key, value)))
        elif key.startswith("$"):
            remedy = (
                f"it belongs to a key, such as {{'year': {{{key!r}: 2020}}}}"
                if key in _OPERATORS
                else "choose of $and, $or, $not"
            )
            raise ConfigError(f"{key!r} of a filter combines no filters; {remedy}")
        elif isinstance(value, Mapping):
            if not value:
                raise ConfigError(
                    f"filter {key!r} has no condition; give one, such as {{'$gt': 0}}"
                )
            parts += [_condition(key, *condition) for condition in value.items()]
        else:
            parts.append(_condition(key, "$eq", value))
    return all_of(*parts) if parts else ""


def _part(operator: str, filter: Any) -> str:
    """Convert a filter inside `$and`, `$or` or `$not` to an expression."""
    if not isinstance(filter, Mapping) or not filter:
        raise ConfigError(
            f"{operator} of a filter takes dictionaries with conditions, got {filter!r}"
        )
    return _expression(filter)


def _condition(key: str, operator: str, value: Any) -> str:
    if operator not in _OPERATORS:
        known = ", ".join((*_OPERATORS, "$and", "$or", "$not"))
        raise ConfigError(f"operator {operator!r} of filter {key!r} is unknown; choose of {known}")
    is_named = key in (*_COLUMNS, TAGS) or key.startswith(f"{METADATA}.")
    field = key if is_named else f"{METADATA}.{key}"
    if key in (TAGS, *PHOTO_LISTS):
        values = [value] if isinstance(value, str) else value
        if operator in ("$eq", "$in"):
            return (has_all_tags if operator == "$eq" else has_any_tag)(values, field)
        if operator in ("$ne", "$nin"):
            return negate((has_all_tags if operator == "$ne" else has_any_tag)(values, field))
        raise ConfigError(f"filter {key!r} takes $eq, $ne, $in and $nin, got {operator}")
    return where(field, _OPERATORS[operator], value)


def _of_each(count: int, name: str, given: Sequence[Any] | None, default: Any) -> Sequence[Any]:
    if given is None:
        return [default] * count
    if len(given) != count:
        raise ConfigError(f"{name} must have one item for each of {count}, got {len(given)}")
    return given
