"""Search engine: embed queries by text, image or both, and search a collection."""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ArgumentError, SearchError
from coca.core.files.local_files import read_file
from coca.search.predictor import CaptionScorer, Embedder
from coca.search.query.match import MARKED_HITS, VERDICT_HITS, Calibration, mark_matches
from coca.search.query.milvus_search import searchable
from coca.search.query.originals import ImageOpener
from coca.search.query.query_terms import (
    Term,
    check_terms,
    direction,
    embed_queries,
    name_emoji,
    query_vectors,
)
from coca.search.query.rerank import check_texts, rerank
from coca.search.query.searchable import Searchable, VectorSearch
from coca.search.records import Hit, check_same_model
from coca.search.search_options import MAX_RESULTS, QueryOptions, Ranking, SearchOptions, Side


class SearchEngine:
    """Search engine over one collection.

    Example:
        with Collection.open("pictures.db") as index:
            for hit in SearchEngine(coca.load(), index).search("red car"):
                print(hit.score, hit.path)
    """

    def __init__(
        self,
        embedder: Embedder,
        collection: VectorSearch,
        *,
        image_reader: Callable[[], ImageOpener] = lambda: read_file,
    ) -> None:
        """Combine both; the engine does not close the collection.

        Args:
            embedder: Model that embedded the collection.
            collection: The collection. One of Milvus Lite is copied into memory by the first
                search, unless its copy is on disk; see `CollectionCopy`.
            image_reader: Factory of the function that reads images by path for reranking; reads
                files by default. `coca.workflows.collections.collection_model.open_search` also
                reads tars, tables and videos.

        Raises:
            SearchError: The collection was embedded by another model.
        """
        check_same_model(
            collection.info, fingerprint=embedder.fingerprint, embed_dim=embedder.embed_dim
        )
        self.embedder = embedder
        self.collection = collection
        self._image_reader = image_reader
        self._searched: Searchable | None = None
        self._lock = Lock()

    def read_ahead(self) -> None:
        """Read what searches need in memory; the first typed query does so otherwise."""
        self._searchable().words("any")

    def _searchable(self) -> Searchable:
        with self._lock:
            if self._searched is None:
                self._searched = searchable(self.collection)
            return self._searched

    def search(
        self,
        text: str | None = None,
        *,
        image: Any = None,
        vector: Float[np.ndarray, " E"] | None = None,
        terms: Sequence[Term] = (),
        **options: Any,
    ) -> list[Hit]:
        """Search by text, image, vector, or a combination of them.

        Text, image and vector have equal weight; `terms` sets weights, negative ones included.
        A text is embedded in several forms; see `coca.search.query.query_terms`. A
        query of texts is ranked by images, captions and words; see `coca.search.query.ranking`.

        Args:
            text: Query text.
            image: Query image, in any form that the embedder reads.
            vector: Query embedding; its length is ignored.
            terms: Texts, images and vectors, each with a weight.
            **options: Fields of `QueryOptions`: number of hits and page, filter, vector field,
                grouping, width, weights of the ranking, reranking and match probability; see
                `coca.search.query.match`.

        Returns:
            Hits, best first: by `fused_score` if rankings were fused, else by cosine, and the first
            `rerank` of these by `rank_score`. Pages are parts of one list.

        Raises:
            ConfigError: An option is unknown, has the wrong type or is out of range.
            SearchError: The query is empty, `hybrid` or `rerank` lacks a text, the collection
                cannot answer, or its calibration is of another model.
            DataError: The image cannot be read.
        """
        check_terms(terms)
        page = QueryOptions.of(**options)
        page.check_page(MAX_RESULTS)
        whole = [
            *([] if text is None else [Term(text=text)]),
            *([] if image is None else [Term(image=image)]),
            *([] if vector is None else [Term(vector=vector)]),
            *terms,
        ]
        texts: dict[str, float] = {}
        for term in whole:
            if term.text is not None:
                named = name_emoji(term.text)
                texts[named] = texts.get(named, 0.0) + term.weight
        if page.rerank:
            check_texts(texts)
            if not isinstance(self.embedder, CaptionScorer):
                raise SearchError("this model writes no captions, so it cannot re-rank by them")
        calibration = self._calibration(whole) if page.match else None
        query = self.query(whole)
        offset, last = 0 if page.rerank else page.offset, page.offset + page.k
        # The verdict on a query is that of its first hits, on every page of every size.
        verdict = VERDICT_HITS if calibration is not None else 0
        dense = page.by_vector(k=max(page.rerank, last) - offset, offset=offset)
        ranking = self._ranking(page, whole)

        positive = " ".join(text for text, weight in texts.items() if weight > 0)
        if ranking is not None and not positive.strip():
            raise ArgumentError(
                "a hybrid search compares words, and the query has none: add a text"
            )

        def found(options: SearchOptions) -> list[Hit]:
            if ranking is None:
                return self._searchable().search(query, **vars(options))[0]
            return self._searchable().search_ranked(query, positive, ranking, options)

        if offset and verdict:
            best = found(SearchOptions(**dense | {"k": verdict, "offset": 0}))
            hits = found(SearchOptions(**dense))
        else:
            best = found(SearchOptions(**dense | {"k": max(dense["k"], verdict)}))
            hits, best = best[: dense["k"]], best[:verdict]
        if page.rerank:
            first, others = hits[: page.rerank], hits[page.rerank :]
            hits = [*self._reranked(first, query[0], texts, page.on), *others][page.offset : last]
        if calibration is not None and best:
            hits = mark_matches(
                hits,
                self._searchable().records_of([*best, *hits[:MARKED_HITS]]),
                query[0],
                next(iter(texts)),
                calibration,
                best=[hit.id for hit in best],
            )
        return hits

    def query(self, terms: Sequence[Term]) -> Float32[np.ndarray, "1 E"]:
        """Compute the query vector of these terms, of length 1.

        Raises:
            SearchError: There are no terms, or they cancel each other out.
            DataError: An image cannot be read.
        """
        check_terms(terms)
        if not terms:
            raise ArgumentError("nothing to search for: give a text, an image or a vector")
        given = [term.vector for term in terms if term.vector is not None]
        of_vectors = iter(query_vectors(given, self.collection.info.embed_dim) if given else ())
        texts = [term.text for term in terms if term.text is not None]
        images = [term.image for term in terms if term.image is not None]
        of_texts = iter(embed_queries(self.embedder.embed_texts, texts) if texts else ())
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
        texts: Sequence[str] | None = None,
        *,
        images: Sequence[Any] | None = None,
        vectors: Float[np.ndarray, "Q E"] | None = None,
        **options: Any,
    ) -> list[list[Hit]]:
        """Search many queries in one batch, by cosine alone, which is faster a query.

        Args:
            texts: One text a query.
            images: One image a query.
            vectors: One vector a query. Texts, images and vectors given together have the same
                length; their n-th entries form the n-th query.
            **options: Fields of `SearchOptions`.

        Raises:
            ConfigError: An option is unknown, has the wrong type or is out of range.
            SearchError: As `search`, or the numbers of texts, images and vectors differ.
        """
        parts: list[Float[np.ndarray, "Q E"]] = []
        SearchOptions.of(**options)  # checked before anything is embedded
        for name, some in (("texts", texts), ("images", images)):
            if some is not None and (isinstance(some, str | bytes) or not hasattr(some, "__len__")):
                raise ArgumentError(
                    f"{name} must be a list with one item per query, got {some!r:.80}"
                )
        if texts is not None:
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
            parts.append(embed_queries(self.embedder.embed_texts, texts))
        if images is not None:
            parts.append(self.embedder.embed_images(images))
        if vectors is not None:
            parts.append(query_vectors(vectors, self.collection.info.embed_dim))
        queries = direction(parts, [1.0] * len(parts))
        return self._searchable().search(queries, **options)

    def similar(self, id: str, *, k: int = 10, filter: str = "", offset: int = 0) -> list[Hit]:
        """Find the images nearest to one of the collection, excluding itself.

        Raises:
            SearchError: There is no such record, or `k` or `offset` is out of range.
        """
        SearchOptions(k=k, offset=offset).check_page(MAX_RESULTS)
        record = self.collection.get([id]).get(id)
        if record is None:
            raise SearchError(f"there is no record {id!r} in {self.collection.info.collection!r}")
        # One more, as the image finds itself; that hit may be on an earlier page.
        wanted = min(offset + k + 1, MAX_RESULTS)
        hits = self._searchable().search(record.vector[np.newaxis], wanted, filter=filter)[0]
        return [hit for hit in hits if hit.id != id][offset : offset + k]

    def _ranking(self, options: QueryOptions, terms: Sequence[Term]) -> Ranking | None:
        """Choose the ranking with captions; None for a search by vector alone."""
        if options.hybrid is not None or options.ranking is not None:
            if options.hybrid is False:
                return None
            if options.on != "image":
                raise ArgumentError(
                    f"a hybrid search ranks by image and caption, so on must be 'image', got "
                    f"{options.on!r}"
                )
            return options.ranking or Ranking(captions="all")
        texts = all(term.text is not None for term in terms)
        typed = texts and any(term.weight > 0 for term in terms) and options.on == "image"
        return Ranking() if typed else None

    def _calibration(self, terms: Sequence[Term]) -> Calibration | None:
        """Return the calibration of the collection for this query; None if it has none."""
        if len(terms) != 1 or terms[0].text is None or terms[0].weight != 1:
            return None
        return Calibration.of(self.collection.info, fingerprint=self.embedder.fingerprint)

    def _reranked(
        self,
        hits: Sequence[Hit],
        query: Float32[np.ndarray, " E"],
        texts: Mapping[str, float],
        on: Side,
    ) -> list[Hit]:
        assert isinstance(self.embedder, CaptionScorer)
        # Excludes records that were deleted since the search.
        records = self.collection.get(hit.id for hit in hits)
        return rerank(
            hits,
            records,
            texts,
            self.embedder,
            cosines={id: record.cosine(query, on) for id, record in records.items()},
            open_image=self._image_reader(),
        )
