"""ANN search for records: plain, grouped by album, or full-text (BM25)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from coca.search import records
from coca.search.filters import quoted
from coca.search.index_params.params import MAX_RESULTS
from coca.search.milvus.ann.pagination import BM25_DIGITS, depth_of, group_of, pages, sort_key
from coca.search.milvus.ann.row_search import Vectors, search_rows
from coca.search.milvus.collection_io import CollectionIO, Row
from coca.search.milvus.definition.schema import WORDS
from coca.search.milvus.row_codec import HIT_COLUMNS, belongs, to_hit
from coca.search.records import Hit
from coca.search.search_options import SearchOptions

_MOST_OF_ALBUMS = 2_048
"""Maximum number of nearest images scanned for albums before frequent albums are excluded."""


def ann_search(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], page: SearchOptions, *, captions: bool
) -> list[list[Hit]]:
    """Find the nearest records to each query, nearest first.

    Args:
        vectors: Vector field to search.
        queries: One query a row, each of length 1.
        page: Page of the result list.
        captions: Exclude records without a caption vector, whose placeholder vectors may match.
    """
    separate = vectors.collection is not vectors.images

    def search(some: Sequence[np.ndarray], limit: int) -> list[list[Row]]:
        request, rows = replace(page, k=limit, offset=0), np.stack(some)
        if separate:
            return _search_captions(vectors, rows, request)
        found = search_rows(vectors, rows, request)
        if captions and any(not row[records.HAS_TEXT] for answer in found for row in answer):
            # Only on demand: most collections have no placeholders, and a filter takes time.
            has_text = f"{records.HAS_TEXT} == true"
            found = search_rows(
                vectors, rows, replace(request, filter=_both(page.filter, has_text))
            )
        return found

    most = vectors.index.spec.max_results
    answers = pages(search, list(queries), offset=page.offset, k=page.k, max_limit=most)
    return [[to_hit(row, row["distance"]) for row in answer] for answer in answers]


def grouped_ann_search(
    vectors: Vectors, query: Float[np.ndarray, " E"], page: SearchOptions, *, captions: bool
) -> list[Hit]:
    """Find the best hit of each album, best first; an image without an album is its own group.

    Grouping of Milvus treats all images without an album as one group. Milvus 2.3 ignores it, and
    Lite returns one album where it has the nearest 100 images. So the limit grows until enough
    albums are found; at the maximum, albums found so far are excluded by a filter.
    """
    wanted = page.k + page.offset
    limit = depth_of(2 * wanted)
    most = min(max(limit, _MOST_OF_ALBUMS), vectors.index.spec.max_results)
    found: dict[str, Hit] = {}
    hidden: list[str] = []
    while True:
        limit = min(limit, most)
        rest = replace(page, k=limit, offset=0, filter=_without(hidden, page.filter))
        hits = ann_search(vectors, query[np.newaxis], rest, captions=captions)[0]
        for hit in hits:
            found.setdefault(group_of(hit), hit)
        if len(hits) < limit or len(found) >= wanted:
            best = sorted(found.values(), key=lambda hit: sort_key(hit.score, hit.id))
            return best[page.offset : wanted]
        if limit == most:
            hidden = sorted({hit.album for hit in found.values() if hit.album})
        limit *= 4


def bm25_search(collection: CollectionIO, text: str, page: SearchOptions) -> list[Hit]:
    """Rank records by BM25 of their captions, best first."""

    def search(texts: Sequence[str], limit: int) -> list[list[Row]]:
        answers = collection.search(
            texts,
            column=WORDS,
            columns=HIT_COLUMNS,
            k=limit,
            params={},
            metric="BM25",
            filter=page.filter,
        )
        # Lite returns the negated score.
        return [[row | {"distance": abs(row["distance"])} for row in rows] for rows in answers]

    rows = pages(
        search, [text], offset=page.offset, k=page.k, max_limit=MAX_RESULTS, digits=BM25_DIGITS
    )[0]
    return [to_hit(row, row["distance"]) for row in rows]


def _search_captions(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], request: SearchOptions
) -> list[list[Row]]:
    """Find the images with the nearest captions, where captions are in a separate collection.

    Orphaned captions of a killed writer are skipped.
    """
    images, limit = vectors.images, request.k
    while True:
        found = search_rows(vectors, queries, replace(request, k=limit))
        ids = dict.fromkeys(row[records.ID] for rows in found for row in rows)
        image_rows = images.get(ids, HIT_COLUMNS, freshness=images.freshness)
        known = {row[records.ID]: row for row in image_rows}
        answers = [
            [
                known[row[records.ID]] | {"distance": row["distance"]}
                for row in rows
                if belongs(row, known.get(row[records.ID]))
            ]
            for rows in found
        ]
        short = any(
            len(answer) < request.k and len(rows) == limit
            for answer, rows in zip(answers, found, strict=True)
        )
        if not short or limit == vectors.index.spec.max_results:
            return [answer[: request.k] for answer in answers]
        limit = min(2 * limit, vectors.index.spec.max_results)


def _without(albums: Sequence[str], filter: str) -> str:
    if not albums:
        return filter
    return _both(filter, f"{records.ALBUM} not in [{', '.join(map(quoted, albums))}]")


def _both(filter: str, other: str) -> str:
    return f"({filter}) and {other}" if filter else other
