"""Search by words, by picture or by both: an embedder joined to a collection."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ArgumentError, SearchError
from coca.search.milvus import MAX_RESULTS, Side
from coca.search.ranking import check_page
from coca.search.records import CollectionInfo, Hit, Record, check_same_model
from coca.search.terms import Term, check_terms, direction, query_vectors


@runtime_checkable
class Embedder(Protocol):
    """Turns pictures and texts into vectors of one space; a loaded model is one."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would."""
        ...

    @property
    def embed_dim(self) -> int:
        """Numbers in a vector."""
        ...

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        """A vector of length 1 for each picture: bytes, a path, or whatever else it reads.

        Raises:
            DataError: A picture cannot be read.
        """
        ...

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        """A vector of length 1 for each text."""
        ...


@runtime_checkable
class Searchable(Protocol):
    """A collection that answers: an `Index`, or a `Resident` that keeps its vectors in memory."""

    info: CollectionInfo

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        *,
        filter: str = "",
        offset: int = 0,
        on: Side = "image",
        one_each_album: bool = False,
    ) -> list[list[Hit]]:
        """The nearest records to each vector, nearest first; see `Index.search`."""
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        ...


class SearchEngine:
    """Finds pictures in a collection.

    Example:
        with Index.open("pictures.db") as index:
            for hit in SearchEngine(coca.load("nano"), index).search("red car"):
                print(hit.score, hit.path)
    """

    def __init__(self, embedder: Embedder, index: Searchable) -> None:
        """Join the two; the engine does not close the index.

        Raises:
            SearchError: The collection was filled by another model.
        """
        check_same_model(index.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim)
        self.embedder = embedder
        self.index = index

    def search(
        self,
        text: str | None = None,
        *,
        image: Any = None,
        vector: Float[np.ndarray, " E"] | None = None,
        terms: Sequence[Term] = (),
        k: int = 10,
        filter: str = "",
        offset: int = 0,
        min_score: float | None = None,
        on: Side = "image",
        one_each_album: bool = False,
    ) -> list[Hit]:
        """The records nearest to a text, a picture, a vector, or several of them together.

        Given together they count alike; `terms` says how much each counts, and what to avoid.

        Args:
            text: Words to search for.
            image: Picture to search for, in any form that the embedder reads.
            vector: Embedding to search for; its length does not count.
            terms: Any number of texts, pictures and vectors, each with a weight.
            k: How many results, at most.
            filter: Milvus expression that a picture must fulfil; `where` builds one safely.
            offset: How many of the nearest to leave out, for paging.
            min_score: Cosine below which nothing is returned, -1 to 1.
            on: What the query is compared with: the pictures, or their captions.
            one_each_album: Only the best picture of each album or video.

        Returns:
            The nearest first.

        Raises:
            SearchError: Nothing to search for, or the collection cannot answer.
            DataError: The picture cannot be read.
        """
        whole = [
            *([] if text is None else [Term(text=text)]),
            *([] if image is None else [Term(image=image)]),
            *([] if vector is None else [Term(vector=vector)]),
            *terms,
        ]
        answers = self.index.search(
            self.query(whole), k, filter=filter, offset=offset, on=on, one_each_album=one_each_album
        )
        return _at_least(min_score, answers)[0]

    def query(self, terms: Sequence[Term]) -> Float32[np.ndarray, "1 E"]:
        """The vector that stands for these terms together, of length 1.

        Raises:
            SearchError: No term, or they cancel each other out.
            DataError: A picture cannot be read.
        """
        check_terms(terms)
        if not terms:
            raise ArgumentError("nothing to search for: give a text, an image or a vector")
        given = [term.vector for term in terms if term.vector is not None]
        of_vectors = iter(query_vectors(given, self.index.info.embed_dim) if given else ())
        texts = [term.text for term in terms if term.text is not None]
        images = [term.image for term in terms if term.image is not None]
        of_texts = iter(self.embedder.embed_texts(texts) if texts else ())
        of_images = iter(self.embedder.embed_images(images) if images else ())
        vectors = []
        for term in terms:
            if term.vector is not None:
                vectors.append(next(of_vectors))
            else:
                vectors.append(next(of_images if term.text is None else of_texts))
        return direction([one[np.newaxis] for one in vectors], [term.weight for term in terms])

    def search_batch(
        self,
        *,
        texts: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        vectors: Float[np.ndarray, "Q E"] | None = None,
        k: int = 10,
        filter: str = "",
        offset: int = 0,
        min_score: float | None = None,
        on: Side = "image",
        one_each_album: bool = False,
    ) -> list[list[Hit]]:
        """Many searches at once; each is faster than on its own. See `search`.

        Args:
            texts: One a query.
            images: One a query.
            vectors: One a query. Of texts, images and vectors, those given together are of one
                length, and their n-th entries make the n-th query.
            k: As in `search`.
            filter: As in `search`.
            offset: As in `search`.
            min_score: As in `search`.
            on: As in `search`.
            one_each_album: As in `search`.

        Raises:
            SearchError: As `search`, or the numbers of texts, images and vectors differ.
        """
        parts: list[Float[np.ndarray, "Q E"]] = []
        if texts is not None:
            if isinstance(texts, str):
                raise ArgumentError(f"the texts are {texts!r}; right is a list, one text a query")
            for text in texts:
                Term(text=text)
        given = [one for one in (texts, images, vectors) if one is not None]
        if not given:
            raise ArgumentError("nothing to search for: give a text, an image or a vector")
        if len({len(one) for one in given}) > 1:
            raise ArgumentError(
                "texts, images and vectors that are searched together need the same number of each"
            )
        if not len(given[0]):
            return []
        if texts is not None:
            parts.append(self.embedder.embed_texts(texts))
        if images is not None:
            parts.append(self.embedder.embed_images(images))
        if vectors is not None:
            parts.append(query_vectors(vectors, self.index.info.embed_dim))
        queries = direction(parts, [1.0] * len(parts))
        answers = self.index.search(
            queries, k, filter=filter, offset=offset, on=on, one_each_album=one_each_album
        )
        return _at_least(min_score, answers)

    def similar(self, id: str, *, k: int = 10, filter: str = "", offset: int = 0) -> list[Hit]:
        """The pictures nearest to one of the collection, without that one.

        Raises:
            SearchError: There is no such record, or `k` or `offset` is out of range.
        """
        check_page(k, offset, MAX_RESULTS)
        record = self.index.get([id]).get(id)
        if record is None:
            raise SearchError(f"there is no record {id!r} in {self.index.info.collection!r}")
        # One more, as the picture finds itself; it may stand on an earlier page.
        wanted = min(offset + k + 1, MAX_RESULTS)
        hits = self.index.search(record.vector[np.newaxis], wanted, filter=filter)[0]
        return [hit for hit in hits if hit.id != id][offset : offset + k]


def _at_least(min_score: float | None, answers: list[list[Hit]]) -> list[list[Hit]]:
    if min_score is None:
        return answers
    return [[hit for hit in hits if hit.score >= min_score] for hits in answers]
