"""The nearest records to a vector: all, one of each album, or by words."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from coca.search import records
from coca.search.filters import quoted
from coca.search.index_params.params import MAX_RESULTS
from coca.search.milvus.ann_pages import Look, Page, Vectors, nearest_rows
from coca.search.milvus.collection_io import CollectionIO, Row
from coca.search.milvus.pagination import BM25_DIGITS, depth_of, group_of, pages, place_of
from coca.search.milvus.row_codec import HIT_COLUMNS, belongs, to_hit
from coca.search.milvus.schema import WORDS
from coca.search.records import Hit

_MOST_OF_ALBUMS = 2_048
"""Nearest images to look for albums in, at most, before those that fill them are left out."""


def nearest(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], page: Page, *, captions: bool
) -> list[list[Hit]]:
    """The nearest records to each query, nearest first.

    Args:
        vectors: Where to look.
        queries: One a row, each of length 1.
        page: Which of the nearest.
        captions: Leave out records that have no caption's vector, whose stand-ins may come up.
    """
    separate = vectors.collection is not vectors.pictures

    def search(some: Sequence[np.ndarray], limit: int) -> list[list[Row]]:
        look, rows = page.look(limit), np.stack(some)
        if separate:
            return _rows_of_pictures(vectors, rows, look)
        found = nearest_rows(vectors, rows, look)
        if captions and any(not row[records.HAS_TEXT] for answer in found for row in answer):
            # Only now, as most collections have no stand-ins, and a filter takes time.
            spoken = f"{records.HAS_TEXT} == true"
            found = nearest_rows(vectors, rows, replace(look, filter=_both(page.filter, spoken)))
        return found

    most = vectors.index.most_results
    answers = pages(search, list(queries), offset=page.offset, k=page.k, most=most)
    return [[to_hit(row, row["distance"]) for row in answer] for answer in answers]


def nearest_of_each_album(
    vectors: Vectors, query: Float[np.ndarray, " E"], page: Page, *, captions: bool
) -> list[Hit]:
    """The best hit of each album, best first; an image without an album stands for itself.

    Milvus can group by a column, but would take all images without an album for one; 2.3 ignores
    the wish, and Lite finds one album where the nearest 100 images are of it. So more and more
    are asked for, and albums that fill even the most of them are asked away.
    """
    wanted = page.k + page.offset
    limit = depth_of(2 * wanted)
    most = min(max(limit, _MOST_OF_ALBUMS), vectors.index.most_results)
    found: dict[str, Hit] = {}
    hidden: list[str] = []
    while True:
        limit = min(limit, most)
        rest = replace(page, k=limit, offset=0, filter=_without(hidden, page.filter))
        hits = nearest(vectors, query[np.newaxis], rest, captions=captions)[0]
        for hit in hits:
            found.setdefault(group_of(hit), hit)
        if len(hits) < limit or len(found) >= wanted:
            best = sorted(found.values(), key=lambda hit: place_of(hit.score, hit.id))
            return best[page.offset : wanted]
        if limit == most:
            hidden = sorted({hit.album for hit in found.values() if hit.album})
        limit *= 4


def words_of(collection: CollectionIO, text: str, page: Page) -> list[Hit]:
    """The records whose captions hold the words of a text, best first; the score is BM25."""

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
        # Lite tells the score with a minus in front.
        return [[row | {"distance": abs(row["distance"])} for row in rows] for rows in answers]

    rows = pages(
        search, [text], offset=page.offset, k=page.k, most=MAX_RESULTS, digits=BM25_DIGITS
    )[0]
    return [to_hit(row, row["distance"]) for row in rows]


def _rows_of_pictures(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], look: Look
) -> list[list[Row]]:
    """The images whose captions are nearest, where captions have a collection of their own.

    Captions that a killed writer left without their image are passed over.
    """
    pictures, limit = vectors.pictures, look.limit
    while True:
        found = nearest_rows(vectors, queries, replace(look, limit=limit))
        ids = dict.fromkeys(row[records.ID] for rows in found for row in rows)
        told = pictures.get(ids, HIT_COLUMNS, freshness=pictures.freshness)
        known = {row[records.ID]: row for row in told}
        answers = [
            [
                known[row[records.ID]] | {"distance": row["distance"]}
                for row in rows
                if belongs(row, known.get(row[records.ID]))
            ]
            for rows in found
        ]
        short = any(
            len(answer) < look.limit and len(rows) == limit
            for answer, rows in zip(answers, found, strict=True)
        )
        if not short or limit == vectors.index.most_results:
            return [answer[: look.limit] for answer in answers]
        limit = min(2 * limit, vectors.index.most_results)


def _without(albums: Sequence[str], filter: str) -> str:
    if not albums:
        return filter
    return _both(filter, f"{records.ALBUM} not in [{', '.join(map(quoted, albums))}]")


def _both(filter: str, other: str) -> str:
    return f"({filter}) and {other}" if filter else other
