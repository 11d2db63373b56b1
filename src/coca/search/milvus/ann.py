"""ANN search for rows and records, with adaptive search width and stable pagination.

Milvus orders ties in a way that depends on the limit. Images with the same caption, or captions
with the same words, tie.

A filter lowers the recall of a graph index. So the search width grows as the filter keeps fewer
rows. Where that is not enough, the kept rows are read and compared here (brute force).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from coca.search import records
from coca.search.filters import NOT_HIDDEN, all_of, quoted, with_ids
from coca.search.milvus.rows import HIT_COLUMNS, Row, Rows, belongs, to_hit
from coca.search.milvus.schema import served_rows
from coca.search.milvus.vector_index import MAX_WIDTH, VectorIndex
from coca.search.records import ID, SCORE_DIGITS, Hit, batches, group_of, is_hidden, sort_key
from coca.search.search_options import SearchOptions

# Pagination: a stable order of results by score, with ties broken by id.


_FIRST_DEPTH = 32
_DEEPER = 4

_Q = TypeVar("_Q")


def depth_of(wanted: int) -> int:
    """Compute the search depth of a page, in results: 32, 128, 512 and so on.

    The search width, and so the recall, grows with the limit. Pages of one depth use one width, so
    that no page contains a result that another page missed.
    """
    depth = _FIRST_DEPTH
    while depth < wanted:
        depth *= _DEEPER
    return depth


def pages(
    search: Callable[[Sequence[_Q], int], list[list[Row]]],
    queries: Sequence[_Q],
    *,
    offset: int,
    k: int,
    max_limit: int,
) -> list[list[Row]]:
    """Collect the page of each query from rank `offset` on."""
    answers: list[list[Row]] = [[] for _ in queries]
    open_ones, last = list(range(len(queries))), offset + k
    limit = min(last + 1, max_limit)
    while open_ones:
        found = search([queries[number] for number in open_ones], limit)
        torn = []
        for number, rows in zip(open_ones, found, strict=True):
            rows = sorted(rows, key=lambda row: sort_key(row["distance"], row[ID]))
            answers[number] = rows[offset:last]
            # More ties with the last result may follow, and may precede it by id.
            if last < limit == len(rows):
                ends = [round(rows[row]["distance"], SCORE_DIGITS) for row in (last - 1, -1)]
                if ends[0] == ends[1]:
                    torn.append(number)
        if limit == max_limit:
            break
        open_ones, limit = torn, min(depth_of(limit + 1), max_limit)
    return answers


# ANN search for rows, with adaptive search width under selective filters.


_QUERY_ROWS = 256
_ANSWER_BYTES = 64 << 20
"""Maximum size of an answer with vectors; queries are batched below it."""
_LISTED_IDS = 20_000

_FEW_ROWS = 200
"""A filter that keeps at most so many rows is answered by brute force: in 5 to 60 ms."""
_MANY_ROWS = 2_000
"""Maximum number of rows read for a brute-force search: on Lite they take 0.6 s."""
_MARGIN = 4
"""Oversampling: multiple of the wanted results that a graph must find among the kept rows."""
_BEHIND_FILTER = 2.0
"""Factor on the search width under a filter. On Milvus 2.3, with 30,000 vectors of 512 numbers and
a filter that keeps 8 to 50 %, it raises recall@10 from 0.965-0.98 to 0.985-0.995.
"""
_ROUGH_ROWS = 2_000
"""Number of unindexed rows searched by an interim index, which loses one result in twelve at any
effort; Milvus 2.3 builds it from 5,000 new rows on."""
_WIDTHS = ("ef", "itopk_size", "reorder_k", "search_list")
"""Search parameters that are candidate counts; they must be at least the limit."""
_READ_AS_OBJECTS = (records.METADATA, records.TAGS, records.ORIGIN, records.CAPTION_SOURCE)
"""Filter fields that Lite reads slowly: arrays and JSON."""
_UTMOST = 1e6
"""Effort that probes every cluster of an index."""


@dataclass(frozen=True)
class Vectors:
    """Vector field of a collection: image vectors or caption vectors."""

    images: Rows
    """Collection of the image rows."""
    collection: Rows
    """Collection of the vectors: the same, or a separate collection for captions."""
    column: str
    index: VectorIndex


def search_rows(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], request: SearchOptions
) -> list[list[Row]]:
    """Find the nearest rows to each query, nearest first, each with its `distance`."""
    if not len(queries):
        return []
    if not request.filter:
        return _searched(vectors, queries, request, effort=request.effort)
    if vectors.collection.connection.is_lite:
        return _filtered_on_lite(vectors, queries, request)
    return _filtered_on_server(vectors, queries, request)


def _filtered_on_server(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], request: SearchOptions
) -> list[list[Row]]:
    """Search with a width that depends on the number of rows the filter keeps."""
    collection = vectors.collection
    kept, share = collection.count(request.filter, freshness=collection.freshness), 1.0
    if kept > _FEW_ROWS:
        share = kept / max(collection.count(freshness=collection.freshness), kept)
    # A server itself uses brute force where few rows are kept, except for unindexed rows.
    if kept <= _FEW_ROWS or (
        kept <= _MANY_ROWS
        and kept / share - served_rows(collection.connection, collection.name) > _ROUGH_ROWS
    ):
        columns = [*HIT_COLUMNS, vectors.column]
        rows = collection.query(request.filter, columns, freshness=collection.freshness)
        return _exact(vectors, queries, rows, request)
    # So that it visits as many kept rows as an unfiltered search visits rows.
    effort = request.effort * (1.0 if share == 1 else _BEHIND_FILTER / share)
    return _searched(vectors, queries, request, effort=effort)


def _filtered_on_lite(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], request: SearchOptions
) -> list[list[Row]]:
    """Search widely, then by brute force if too few kept rows were found.

    Counting or reading the kept rows takes Lite longer than such a search. Among 100,000 rows it
    takes 0.2 s plus 55 us a kept row; the search takes 0.15 s.
    """
    collection, index = vectors.collection, vectors.index
    if any(name in request.filter for name in _READ_AS_OBJECTS):
        # For arrays and JSON, Lite converts each whole record to Python objects, with vectors; so
        # evaluate the filter only once.
        ids = collection.ids(request.filter)
        if len(ids) <= _FEW_ROWS:
            columns = [*HIT_COLUMNS, vectors.column]
            return _exact(vectors, queries, list(collection.get(ids, columns)), request)
        if len(ids) <= _LISTED_IDS:
            request = replace(request, filter=with_ids(ids))
    if "ef" not in index.search_params(request.k, 1.0):
        return _searched(vectors, queries, request, effort=_UTMOST)
    # More results than wanted show that the search was wide enough. A compressed graph has other
    # scores than the rows, so all pages of one depth must take the same path.
    wanted = request.k if vectors.index.exact_scores else depth_of(request.k)
    wider = replace(request, k=min(_MARGIN * wanted, index.max_results))
    answers = _searched(vectors, queries, wider, effort=_UTMOST, ef=MAX_WIDTH)
    if any(len(answer) < wider.k for answer in answers):
        columns = [*HIT_COLUMNS, vectors.column]
        read = collection.query(request.filter, columns, limit=_MANY_ROWS + 1)
        if len(read) <= _MANY_ROWS:
            return _exact(vectors, queries, read, request)
        # The kept rows are far from the query: search the whole graph.
        answers = _searched(vectors, queries, wider, effort=_UTMOST, ef=collection.count())
    return [answer[: request.k] for answer in answers]


def _searched(
    vectors: Vectors,
    queries: Float[np.ndarray, "Q E"],
    request: SearchOptions,
    *,
    effort: float,
    ef: int | None = None,
) -> list[list[Row]]:
    """Search the index; `ef` overrides the value from the effort.

    Scores of compressed vectors are not cosines and rank differently. So all results to the depth
    of the page are rescored with the stored vectors. Pages of one depth then agree, and scores do
    not depend on the index or the filter.
    """
    exact = vectors.index.exact_scores
    depth = min(depth_of(request.k), vectors.index.max_results)
    params = vectors.index.search_params(depth, effort)
    limit = request.k if exact else depth
    if ef is not None:
        params["ef"] = max(ef, limit)
    params |= _wide_enough(request.params or {}, limit)
    answers = [
        answer
        for batch in batches(queries, _QUERY_ROWS if exact else _rescored(depth, queries.shape[1]))
        for answer in vectors.collection.search(
            np.stack(batch),
            column=vectors.column,
            columns=HIT_COLUMNS if exact else [*HIT_COLUMNS, vectors.column],
            k=limit,
            params=params,
            filter=request.filter,
        )
    ]
    if exact:
        return answers
    return [
        _exact(vectors, query[np.newaxis], answer, request)[0]
        for query, answer in zip(queries, answers, strict=True)
    ]


def _rescored(depth: int, embed_dim: int) -> int:
    return min(max(_ANSWER_BYTES // (4 * depth * embed_dim), 1), _QUERY_ROWS)


def _wide_enough(params: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Raise candidate counts to the limit, since Milvus refuses smaller values.

    A search requests a few more results than it returns, for a stable order of pages.
    """
    return {
        name: max(value, limit) if name in _WIDTHS and isinstance(value, int) else value
        for name, value in params.items()
    }


def _exact(
    vectors: Vectors,
    queries: Float[np.ndarray, "Q E"],
    rows: Sequence[Row],
    request: SearchOptions,
) -> list[list[Row]]:
    """Rank rows by exact cosine (brute force), from rows with their vectors."""
    if not rows:
        return [[] for _ in queries]
    stored = np.asarray([row[vectors.column] for row in rows], np.float32)
    answers = []
    for scores in queries @ stored.T:
        best = np.argsort(-scores, kind="stable")[: request.k]
        answers.append([rows[row] | {"distance": float(scores[row])} for row in best])
    return answers


_MOST_OF_ALBUMS = 2_048
"""Maximum number of nearest images scanned for albums before frequent albums are excluded."""


def ann_search(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], page: SearchOptions, *, captions: bool
) -> list[list[Hit]]:
    """Find the nearest records to each query, nearest first."""
    separate = vectors.collection is not vectors.images
    look = _search_captions if separate else search_rows
    # Only on demand: most collections have no placeholders and no hidden records, and a filter
    # takes time.
    excluded: list[tuple[Callable[[Row], bool], str]] = [
        (lambda row: is_hidden(row[records.METADATA]), NOT_HIDDEN)
    ]
    if captions and not separate:
        excluded.append((lambda row: not row[records.HAS_TEXT], f"{records.HAS_TEXT} == true"))
    filters = [page.filter] if page.filter else []

    def search(some: Sequence[np.ndarray], limit: int) -> list[list[Row]]:
        while True:
            filter = all_of(*filters) if len(filters) > 1 else "".join(filters)
            request = replace(page, k=limit, offset=0, filter=filter)
            found = look(vectors, np.stack(some), request)
            rows = [row for answer in found for row in answer]
            needed = [one for one in excluded if any(one[0](row) for row in rows)]
            if not needed:
                return found
            for one in needed:
                excluded.remove(one)
                filters.append(one[1])

    most = vectors.index.max_results
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
    most = min(max(limit, _MOST_OF_ALBUMS), vectors.index.max_results)
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
        if not short or limit == vectors.index.max_results:
            return [answer[: request.k] for answer in answers]
        limit = min(2 * limit, vectors.index.max_results)


def _without(albums: Sequence[str], filter: str) -> str:
    if not albums:
        return filter
    return all_of(filter, f"{records.ALBUM} not in [{', '.join(map(quoted, albums))}]")
