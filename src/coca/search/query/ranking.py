"""The ranking rule of typed queries: a sum of absolute similarities.

    score = image_weight cos(query, image)
          + caption_weight cos(query, caption)
          + words_weight b / (b + words_half)
          + text_weight s^4

b is the BM25 of the query's words in the caption, 0 where they share none, and s the share of these
words that the text inside the image has, weighted by their idf. (BM25 is low where few images have
text, and in long texts: with it, a page with the words "oak table" came after photos of other
things.) Nothing is normalized
among the hits of a query, so the score of a record depends on the query and the record, and on the
captions of the collection by BM25 only: it is the same on Milvus Lite, on a server, in a copy in
memory, on every page of hits, and with any number of records.

A record without a caption that counts has no caption cosine and no words: `uncaptioned` times the
cosine of its image replaces the cosine of the caption.

Dimensions: N records, E embedding.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32

from coca.search.filters import all_of, with_ids
from coca.search.query.searchable import VectorSearch
from coca.search.query.words import WordHits
from coca.search.records import SCORE_DIGITS, Hit, group_of, is_hidden, sort_key
from coca.search.search_options import MAX_RESULTS, Ranking, SearchOptions


def fused_scores(
    image: Float[np.ndarray, " N"],
    caption: Float[np.ndarray, " N"],
    words: Float[np.ndarray, "N 2"],
    ranking: Ranking,
) -> Float[np.ndarray, " N"]:
    """Compute the scores by which records are sorted."""
    return sum(parts_of(image, caption, words, ranking).values(), np.zeros(len(image)))


def parts_of(
    image: Float[np.ndarray, " N"],
    caption: Float[np.ndarray, " N"],
    words: Float[np.ndarray, "N 2"],
    ranking: Ranking,
) -> dict[str, Float[np.ndarray, " N"]]:
    """Compute what image, caption, words and text give to the scores; see `fused_scores`."""
    bm25, share = words.astype(np.float64).T
    caption = np.where(np.isnan(caption), ranking.uncaptioned * image, caption)
    return {
        "image": ranking.image_weight * image,
        "caption": ranking.caption_weight * caption,
        "words": ranking.words_weight * bm25 / (bm25 + ranking.words_half),
        "text": ranking.text_weight * share**4,
    }


def ranked_hit(
    hit: Hit, ranking: Ranking, *, image: float, caption: float, bm25: float, inside: float
) -> Hit:
    """Set the score of a hit, and what it consists of; a caption of NaN does not count."""
    single = [np.array([one], np.float64) for one in (image, caption)]
    given = parts_of(single[0], single[1], np.array([[bm25, inside]]), ranking)
    parts = {name: float(part[0]) for name, part in given.items()}
    if not inside:
        del parts["text"]
    return replace(
        hit,
        score=image,
        caption_score=None if math.isnan(caption) else caption,
        bm25=bm25 or None,
        fused_score=sum(parts.values()),
        parts=parts,
    )


# Search of a collection in Milvus: candidates of three lists, ranked by their exact scores.


DEPTHS = (64, 256, 1_024, 4_096, MAX_RESULTS)
"""Number of candidates of each list; the next depth is for hits that the last one leaves open."""


def search_ranked(
    collection: VectorSearch,
    words: WordHits,
    query: Float32[np.ndarray, "1 E"],
    ranking: Ranking,
    page: SearchOptions,
) -> list[Hit]:
    """Search a collection in Milvus by image, caption and words.

    Candidates are the nearest images, the nearest captions and the captions with the best BM25. A
    candidate is a hit if no other record can have a higher score than its own, as far as the ends
    of the three lists show (the threshold algorithm of Fagin et al. 2001). So the hits are those of
    an exact search, if the searches of images and captions are exact.

    Returns:
        Hits, best first by `fused_score`; `score` is the cosine of query and image.
    """
    page.check_page(MAX_RESULTS)
    dense = page.by_vector(offset=0, min_score=None, group_by=None)
    found: dict[str, Hit] = {}
    for depth in DEPTHS:
        images = collection.search(query, **dense | {"k": depth})[0]
        captions = collection.search(query, **dense | {"k": depth, "on": "text"})[0]
        candidates = _Candidates(collection, query[0], words, ranking, page)
        candidates.add(images, captions, [*words.best(depth)], words.rest(depth), depth=depth)
        for hit in candidates.ranked():
            found.setdefault(group_of(hit) if page.group_by else hit.id, hit)
        if len(found) >= page.offset + page.k or candidates.are_all:
            break
    return list(found.values())[page.offset : page.offset + page.k]


class _Candidates:
    """Candidates of one depth, with what is known of their similarities."""

    def __init__(
        self,
        collection: VectorSearch,
        query: Float32[np.ndarray, " E"],
        words: WordHits,
        ranking: Ranking,
        page: SearchOptions,
    ) -> None:
        self._collection, self._query = collection, query
        self._words, self._ranking, self._page = words, ranking, page
        self._hits: dict[str, Hit] = {}
        self._image: dict[str, float] = {}
        self._caption: dict[str, float] = {}
        # No record that a list lacks is nearer than the last one of the list.
        self._most_image = self._most_caption = 1.0
        self._most_words = np.array([[math.inf, 1.0]])
        self.are_all = False
        """Whether no other record can be a hit."""

    def add(
        self,
        images: Sequence[Hit],
        captions: Sequence[Hit],
        best: Sequence[str],
        rest: Float[np.ndarray, "1 2"],
        *,
        depth: int,
    ) -> None:
        """Add the records of three lists, each of the first `depth` records.

        No record that `best` lacks has higher similarities of words than `rest`.
        """
        self._hits |= {hit.id: hit for hit in (*captions, *images)}
        self._image |= {hit.id: hit.score for hit in images}
        self._caption |= {hit.id: hit.score for hit in captions if self._ranking.counts(hit)}
        self._most_image = images[-1].score if images else -1.0
        self._most_caption = captions[-1].score if captions else -1.0
        self._most_words = rest
        least = self._page.min_score
        self.are_all = (
            depth == DEPTHS[-1]
            or len(images) < depth
            or (least is not None and self._most_image < least)
        )
        alone = [id for id in best if id not in self._hits]
        if alone and self._page.filter:
            alone = self._collection.ids(all_of(self._page.filter, with_ids(alone)))
        self._read(alone)

    def ranked(self) -> list[Hit]:
        """Rank the candidates that no other record precedes, by their exact scores."""
        ids = self._similar(self._hits)
        most, known = self._scores(ids), np.array([self._is_known(id) for id in ids], bool)
        wanted, least = self._page.offset + self._page.k, self._most_of_others()
        if not self._page.group_by and known.sum() >= wanted:
            least = max(least, float(np.sort(most[known])[-wanted]))
        # The vectors of the others need not be read: their scores are too low in any case.
        least -= 10.0**-SCORE_DIGITS
        self._read([ids[row] for row in np.flatnonzero(~known & (most >= least))])
        ids = self._similar(id for id in ids if id in self._hits and self._is_known(id))
        words = dict(zip(ids, self._words.of(ids).tolist(), strict=True))
        scores = dict(zip(ids, self._scores(ids).tolist(), strict=True))
        ids = [id for id in ids if scores[id] >= least]
        return [
            ranked_hit(
                self._hits[id],
                self._ranking,
                image=self._image[id],
                caption=self._caption.get(id, math.nan),
                bm25=words[id][0],
                inside=words[id][1],
            )
            for id in sorted(ids, key=lambda id: sort_key(scores[id], id))
        ]

    def _most_of_others(self) -> float:
        """Return the highest score that a record may have that is not a candidate."""
        if self.are_all:
            return -math.inf
        image = self._most_image
        captions = np.array([self._most_of_captions(image), math.nan])
        words = np.repeat(self._most_words, 2, axis=0)
        return float(fused_scores(np.full(2, image), captions, words, self._ranking).max())

    def _is_known(self, id: str) -> bool:
        """Return whether all cosines of a candidate are known."""
        return id in self._image and (
            id in self._caption or not self._ranking.counts(self._hits[id])
        )

    def _similar(self, ids: Iterable[str]) -> list[str]:
        """Select the candidates whose image may have the minimum cosine."""
        least = -1.0 if self._page.min_score is None else self._page.min_score
        return [id for id in ids if self._image.get(id, self._most_image) >= least]

    def _scores(self, ids: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Compute the scores of candidates; the highest possible ones where cosines are unknown."""
        image = np.array([self._image.get(id, self._most_image) for id in ids], np.float64)
        caption = np.array([self._caption_of(id) for id in ids], np.float64)
        return fused_scores(image, caption, self._words.of(ids), self._ranking)

    def _caption_of(self, id: str) -> float:
        if not self._ranking.counts(self._hits[id]):
            return math.nan
        return self._caption.get(id, self._most_of_captions(self._image.get(id, self._most_image)))

    def _most_of_captions(self, image: float) -> float:
        """Return the highest cosine of an unknown caption, or what replaces it without a vector."""
        return max(self._most_caption, self._ranking.uncaptioned * image)

    def _read(self, ids: Sequence[str]) -> None:
        """Read the vectors of candidates; those deleted or hidden meanwhile are dropped."""
        read = self._collection.get(ids) if ids else {}
        for id in ids:
            record = read.get(id)
            if record is None or is_hidden(record.metadata):
                self._hits.pop(id, None)
                continue
            self._hits[id] = record.as_hit()
            self._image[id] = record.cosine(self._query, "image")
            if self._ranking.counts(self._hits[id]):
                has_vector = record.text_vector is not None
                self._caption[id] = record.cosine(self._query, "text") if has_vector else math.nan
