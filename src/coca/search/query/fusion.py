"""Hybrid search: fuse rankings by images, by vectors of captions, and by full text (BM25)."""

import logging
import math
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ArgumentError, SearchError
from coca.core.extras import require
from coca.search.filters import all_of
from coca.search.index_params.index_types import MAX_RESULTS
from coca.search.milvus.ann import group_of
from coca.search.milvus.lite import Counted, Watch, read_in_background
from coca.search.query.query_terms import Term, join_forms
from coca.search.query.searchable import FullTextSearch, Searchable
from coca.search.records import Hit, Origin
from coca.search.search_options import CaptionChoice, Fusion, SearchOptions, Side, check_text

# BM25 index over captions, for servers without full-text search and for in-memory collections.


K1, B = 1.2, 0.75
"""Defaults of Milvus and Lucene."""
_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Split a text into words, case-folded and in Unicode form NFKC."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def coverage(words: Sequence[Sequence[str]], text: str) -> float:
    """Compute the fraction of the words of a query that a text has.

    Args:
        words: The forms of each word, of which the text needs one.
        text: The text.

    Returns:
        0 to 1; 1 for a query without words.
    """
    held = set(split_words(text))
    forms = [[set(split_words(form)) for form in word] for word in words]
    found = [any(form <= held for form in word) for word in forms if all(word)]
    return sum(found) / len(found) if found else 1.0


class BM25Index:
    """BM25 index of texts: rare shared words and short texts score higher."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Build the index.

        Raises:
            MissingExtraError: The package `bm25s` is not installed.
        """
        self._size = len(texts)
        split = [split_words(text) for text in texts]
        self._known = {word for words in split for word in words}
        # bm25s cannot index texts without any word.
        if self._known:
            bm25s = require("bm25s", extra="search")
            # Its import sets the level DEBUG, which the log handler of `mcp` would print.
            logging.getLogger("bm25s").setLevel(logging.WARNING)
            self._ranker = bm25s.BM25(method="lucene", k1=K1, b=B)
            self._ranker.index(split, show_progress=False)

    def scores(self, query: str) -> Float32[np.ndarray, " N"]:
        """Compute the BM25 score of each text; 0 where it shares no word with the query."""
        terms = [word for word in split_words(query) if word in self._known]
        if not terms:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._ranker.get_scores(terms), np.float32)


# Fusion of rankings: sums of min-max-normalized scores, or reciprocal rank fusion (RRF).


def fuse(
    rankings: Sequence[Sequence[Hit]],
    weights: Sequence[float],
    fusion: Fusion,
    *,
    has_all: Callable[[Hit], bool] = lambda hit: True,
    coverage: Callable[[Hit], float] = lambda hit: 1.0,
) -> list[Hit]:
    """Fuse rankings into one, best first; sets `fused_score`.

    A hit keeps the score of the first ranking that has it, and gets 0 from one that lacks it. Ties
    are broken by id, so that pages never overlap.

    Args:
        rankings: Rankings, each best first, with any scores.
        weights: Weight of each ranking, 0 or more.
        fusion: Fusion method.
        has_all: Whether all rankings apply to a hit. Else only the first does: the others get
            `fusion.uncaptioned` times its score, and do not find the hit.
        coverage: Fraction of the query's words that a hit has. Normalized scores of the last
            ranking are multiplied by it: the best of them need not be a good one, such as "police
            car" for "red car" where no caption has both words.
    """
    sums: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    others = fusion.uncaptioned * sum(weights[1:])
    last = len(rankings) - 1 if fusion.method == "scores" else None
    for position, (ranking, weight) in enumerate(zip(rankings, weights, strict=True)):
        for hit, gain in zip(ranking, _gains(ranking, fusion), strict=True):
            whole = has_all(hit)
            factor = weight if whole else weight + others
            if position == last:
                factor *= coverage(hit)
            if factor and (whole or position == 0):
                sums[hit.id] = sums.get(hit.id, 0.0) + factor * gain
                hits.setdefault(hit.id, hit)
    order = sorted(sums, key=lambda id: (-sums[id], id))
    return [replace(hits[id], fused_score=sums[id]) for id in order]


def _gains(ranking: Sequence[Hit], fusion: Fusion) -> list[float]:
    """Compute the contribution of each rank, 0 to 1."""
    if fusion.method == "rrf":
        return [1 / (fusion.constant + rank) for rank in range(1, len(ranking) + 1)]
    scores = [hit.score for hit in ranking]
    lowest, span = min(scores, default=0.0), max(scores, default=0.0) - min(scores, default=0.0)
    # A single hit, or several of one score, all get the maximum.
    return [(score - lowest) / span if span > 0 else 1.0 for score in scores]


# Full-text search (BM25) over all captions of a collection, held in memory.


@dataclass(frozen=True)
class _Read:
    """Captions of one read of the collection."""

    writes: int
    ids: np.ndarray
    captions: Mapping[str, str]
    index: BM25Index


@runtime_checkable
class CaptionStore(Counted, Protocol):
    """Collection whose captions can be read, such as a `Collection`."""

    def changed_since(self, writes: int) -> list[str] | None:
        """List the ids written since `writes` had this value; None if that is too long ago."""
        ...

    def origins(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, str, str, Origin]]:
        """Iterate over id, path, caption and origin of records."""
        ...

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter."""
        ...

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """Build hits with these scores, in this order."""
        ...


class Captions:
    """BM25 search over captions for servers that lack it: Milvus before 2.5.

    Thread-safe. Captions are read once. The next search reads those again that were written through
    the same index since, or all when the number of records has changed. Replacements by other
    clients of a server appear after a full re-read, which runs in the background after twenty times
    the read time.
    """

    def __init__(self, collection: CaptionStore, captions: CaptionChoice = "all") -> None:
        """Read the captions.

        Args:
            collection: The collection.
            captions: Captions to rank.

        Raises:
            MissingExtraError: The package `bm25s` is not installed.
        """
        self._index, self._captions = collection, captions
        self._watch = Watch(collection, check_s=0.0)
        self._lock = threading.Lock()
        self._held = self._read_all()

    def refresh(self) -> None:
        """Read the captions again."""
        with self._lock:
            self._read_again()

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their captions; captions that share no word are excluded.

        Args:
            text: Query words.
            k: Maximum number of hits.
            filter: Milvus filter expression.
            offset: Number of best hits to skip, for paging.

        Returns:
            Hits, best first; the score is BM25.

        Raises:
            SearchError: The text is empty, or Milvus rejects the filter.
        """
        check_text(text)
        held = self._up_to_date()
        scores = held.index.scores(text)
        if filter and scores.any():
            kept = set(self._index.ids(filter))
            scores = np.where([id in kept for id in held.ids], scores, 0)
        # Ties are broken by id, so that pages never overlap.
        rows = np.flatnonzero(scores)
        rows = rows[np.lexsort((held.ids[rows], -scores[rows]))][offset : offset + k]
        return self._index.hits({held.ids[row]: float(scores[row]) for row in rows})

    def _up_to_date(self) -> _Read:
        while self._lacks_something(held := self._held):
            with self._lock:
                # Another thread may have read them meanwhile, and may have begun too early.
                if self._held is held:
                    self._held = self._with_own_writes(held)
                    return self._held
        if self._watch.is_old():
            read_in_background("captions", self._read_again, self._lock)
        return held

    def _lacks_something(self, held: _Read) -> bool:
        # Counting takes Lite some milliseconds, where `writes` has the writes of all clients.
        return self._index.writes != held.writes or (
            not self._index.sees_all_writes and self._watch.has_changed(len(held.ids))
        )

    def _read_again(self) -> None:
        """Read the captions again; the caller holds the lock."""
        self._held = self._read_all()

    def _read_all(self) -> _Read:
        with self._watch.reading() as writes:
            return self._indexed(writes, self._index.origins())

    def _with_own_writes(self, held: _Read) -> _Read:
        """Read what was written through this index; all if others wrote, or too much is new."""
        writes = self._index.writes
        changed = set(self._index.changed_since(held.writes) or ())
        if not changed:
            return self._read_all()
        stay = {id: text for id, text in held.captions.items() if id not in changed}
        return self._indexed(writes, self._index.origins(changed), stay)

    def _indexed(
        self,
        writes: int,
        rows: Iterable[tuple[str, str, str, Origin]],
        others: Mapping[str, str] | None = None,
    ) -> _Read:
        """Build the index of the captions of `rows` and of `others`.

        Captions that are not ranked count as empty, since the number of records is compared.
        """
        captions = dict(others or {})
        for id, _, caption, origin in rows:
            ranked = self._captions == "all" or origin.caption_source(caption) == "given"
            captions[id] = caption if ranked else ""
        ids = np.array(list(captions), dtype=object)
        return _Read(writes, ids, captions, BM25Index(list(captions.values())))


DEPTHS = (64, 256, 1_024, 4_096, MAX_RESULTS)
"""Hits of each ranking that are fused; the next depth only appends hits. Over 1,880 drawings with
their names, 87 % of 100 everyday queries have a correct hit in the first five at 32, 64 and 128;
86 % at 256, whose search takes Lite three times as long as one of 64.
"""

MANY_CAPTIONS = 50_000
"""Records from which on reading all captions takes longer than a search should (three seconds)."""

_DEFAULT = Fusion()
_GIVEN = 'caption_source == "given"'


def typed_fusion(
    collection: Searchable, terms: Sequence[Term], on: Side = "image"
) -> Fusion | None:
    """Choose the fusion of a query that a person typed.

    Args:
        collection: Collection that is searched.
        terms: Terms of the query.
        on: Vector field that is searched.

    Returns:
        Fusion with the captions that people gave. None if the query has an image, an item or no
        positive text, or searches captions by vector; also if the collection is too large to read
        all captions for one search, or cannot be searched by words.
    """
    texts = all(term.text is not None for term in terms)
    if on != "image" or not texts or all(term.weight <= 0 for term in terms):
        return None
    by_words = collection.supports_full_text or isinstance(collection, CaptionStore)
    few = collection.info.count < MANY_CAPTIONS
    return Fusion(captions="given") if by_words and few else None


def word_search(collection: Searchable, captions: CaptionChoice = "all") -> FullTextSearch:
    """Return the full-text search of a collection: its own, or BM25 in memory.

    Args:
        collection: The collection.
        captions: Captions to rank. On Milvus Lite, given captions are ranked in memory: its filter
            on the source takes 0.1 ms a record for each search.

    Raises:
        SearchError: The collection supports neither.
    """
    in_memory = captions == "given" and collection.info.server_version.startswith("milvus_lite")
    if isinstance(collection, CaptionStore) and (in_memory or not collection.supports_full_text):
        return Captions(collection, captions)
    if collection.supports_full_text:
        return collection if captions == "all" else _GivenOnly(collection)
    raise SearchError(f"collection {collection.info.collection!r} cannot be searched by words")


@dataclass(frozen=True)
class _GivenOnly:
    """Full-text search of the captions that people gave."""

    index: FullTextSearch

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their given captions, best first."""
        among = all_of(*([filter] if filter else []), _GIVEN)
        return self.index.full_text_search(text, k, filter=among, offset=offset)


def search_hybrid(
    collection: Searchable,
    by_words: FullTextSearch,
    words: Sequence[Sequence[str]],
    query: Float[np.ndarray, "1 E"],
    *,
    fusion: Fusion = _DEFAULT,
    k: int = 10,
    **options: Any,
) -> list[Hit]:
    """Search by images, by vectors of captions and by words of captions, and fuse the rankings.

    Args:
        collection: Collection for dense search.
        by_words: Full-text search over those captions of the same collection that `fusion` names;
            see `word_search`.
        words: Words of the query for BM25, each in one or more forms; see `word_forms`.
        query: Query vector, of length 1.
        fusion: Fusion of the rankings.
        k: Maximum number of hits.
        **options: Fields of `SearchOptions`; `min_score` also holds for full-text hits.

    Returns:
        Hits, best first by `fused_score`; `score` is the cosine. Fusion needs all rankings, so it
        covers the first 64 hits of each. Deeper hits follow, fused among the first 256, and so on.
        With `fusion.captions` of `given`, a query near no given caption is a dense search.

    Raises:
        SearchError: The text is empty, `k` or `offset` is out of range, or the collection cannot
            answer.
    """
    text = join_forms(words)
    if not text.strip():
        raise ArgumentError("a hybrid search compares words, and the query has none: add a text")
    page = SearchOptions.of(k=k, **options)
    page.check_page(MAX_RESULTS)
    dense = options | {"offset": 0, "min_score": None, "group_by": None}
    joined: dict[str, Hit] = {}
    for depth in DEPTHS:
        text_hits = by_words.full_text_search(text, depth, filter=page.filter)
        caption_hits = _by_caption_vector(collection, query, depth, fusion, page.on, dense)
        if fusion.captions == "given" and not any(map(fusion.counts, (*text_hits, *caption_hits))):
            return collection.search(query, k, **options)[0]
        dense_hits = collection.search(query, depth, **dense)[0]
        by_vector = fusion.text_weight * fusion.vector_share if caption_hits else 0.0
        fused = fuse(
            [dense_hits, caption_hits, text_hits],
            [1 - fusion.text_weight, by_vector, fusion.text_weight - by_vector],
            fusion,
            has_all=fusion.counts,
            coverage=lambda hit: coverage(words, hit.caption),
        )
        fused = _with_known_scores(fused, dense_hits, text_hits)
        if page.min_score is not None:
            fused = _with_cosines(fused, collection, query[0], page.on)
            fused = [hit for hit in fused if hit.score >= page.min_score]
        # Earlier hits keep their rank: pages of every depth are slices of one list.
        for hit in fused:
            joined.setdefault(group_of(hit) if page.group_by else hit.id, hit)
        longest = max(map(len, (dense_hits, caption_hits, text_hits)))
        if len(joined) >= page.offset + k or longest < depth:
            break
    hits = list(joined.values())[page.offset : page.offset + k]
    return _with_cosines(hits, collection, query[0], page.on)


def _by_caption_vector(
    index: Searchable,
    query: Float[np.ndarray, "1 E"],
    depth: int,
    fusion: Fusion,
    on: Side,
    dense: Mapping[str, Any],
) -> list[Hit]:
    """Rank all captions by vector; none if the dense ranking does so, or if they have no weight.

    Captions that do not count are ranked as well, so that the others are normalized by distance
    from the query and not among a few.
    """
    if on == "text" or fusion.text_weight * fusion.vector_share == 0:
        return []
    return index.search(query, depth, **{**dense, "on": "text"})[0]


def _with_known_scores(
    fused: Sequence[Hit], dense_hits: Sequence[Hit], text_hits: Sequence[Hit]
) -> list[Hit]:
    """Set cosine and BM25 from both rankings; the cosine is NaN where only words found the hit."""
    cosines = {hit.id: hit.score for hit in dense_hits}
    bm25 = {hit.id: hit.score for hit in text_hits}
    return [
        replace(hit, score=cosines.get(hit.id, math.nan), bm25=bm25.get(hit.id)) for hit in fused
    ]


def _with_cosines(
    hits: Sequence[Hit], index: Searchable, query: Float[np.ndarray, " E"], on: Side
) -> list[Hit]:
    """Compute the cosines of hits that only words found; records deleted meanwhile are dropped."""
    unknown = [hit.id for hit in hits if math.isnan(hit.score)]
    if not unknown:
        return list(hits)
    records = index.get(unknown)
    return [
        replace(hit, score=records[hit.id].cosine(query, on)) if hit.id in records else hit
        for hit in hits
        if hit.id in records or not math.isnan(hit.score)
    ]
