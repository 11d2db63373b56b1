"""Search of Milvus by image, caption and words: candidates of lists, ranked by their exact scores.

Candidates are the nearest images, the nearest captions, and the records with the best BM25 of the
query's words in what they say and in the text inside the image. A candidate is a hit if no other
record can have a higher score than its own, as far as the ends of the lists show (the threshold
algorithm of Fagin et al. 2001). So the hits are those of an exact search, if the searches of images
and captions are exact. One bound is assumed: of the text inside an image, a record that is in no
list has at most the share of the query's words that the last one of its list has.

Dimensions: N candidates, E embedding.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import numpy as np
from jaxtyping import Float32

from coca.search.milvus.ann import FOUND_COLUMNS, search, shown, to_found
from coca.search.milvus.rows import Rows, indexed_words, vector_of
from coca.search.milvus.schema import BM25, TEXT_BM25, TEXT_WORDS
from coca.search.ranking import fused_scores, ranked_hit
from coca.search.records import HAS_TEXT, HIDDEN, ID, SCORE_DIGITS, Hit, batches, group_of, sort_key
from coca.search.search_options import MAX_RESULTS, Ranking, SearchOptions
from coca.search.words import query_terms, search_terms, share

DEPTHS = (64, 256, 1_024, 4_096, MAX_RESULTS)
"""Number of candidates of each list; the next depth is for hits that the last one leaves open."""

_LISTED = 1_024
"""Minimum size of a list of words, which costs little more than one of the first depth."""


@dataclass(slots=True)
class Candidate:
    """A record with its similarities to a query, as far as they are known."""

    found: Hit
    has_caption: bool
    """Whether it has a caption that counts for the ranking."""
    image: float | None = None
    """Cosine of query and image."""
    caption: float | None = None
    """Cosine of query and caption; NaN if the caption has no vector."""
    bm25: float = 0.0
    inside: float = 0.0
    """Share of the query's words that labels and the text inside the image have, 0 to 1."""

    @property
    def is_known(self) -> bool:
        """Whether all its cosines are known."""
        return self.image is not None and (self.caption is not None or not self.has_caption)

    def rank(self, hit: Hit, ranking: Ranking) -> Hit:
        """Return its hit, with the score and what it consists of; its cosines must be known."""
        assert self.image is not None
        caption = math.nan if self.caption is None or not self.has_caption else self.caption
        return ranked_hit(
            hit, ranking, image=self.image, caption=caption, bm25=self.bm25, inside=self.inside
        )


@dataclass(slots=True)
class _Ends:
    """Ends of the lists: no record that a list lacks has a higher similarity."""

    image: float
    caption: float
    bm25: float
    inside: float = 0.0


@dataclass(frozen=True, slots=True)
class _WordList:
    """The best records by words."""

    scores: Mapping[str, float]
    """BM25 by id, best first."""
    is_cut: bool
    """Whether other records may have a word, too."""

    def end(self, depth: int) -> float:
        """Return the highest BM25 of a record that is not among the first `depth`."""
        following = islice(self.scores.values(), depth, None)
        least = min(self.scores.values(), default=0.0) if self.is_cut else 0.0
        return next(following, least)


class RankedSearch:
    """Search of a collection for one query, which keeps its lists of words for deeper ones."""

    def __init__(
        self,
        rows: Rows,
        query: Float32[np.ndarray, " E"],
        text: str,
        ranking: Ranking,
        options: SearchOptions,
    ) -> None:
        """Search for a text and its vector; the filter of the options is one of Milvus."""
        self._rows, self._query, self._ranking, self._options = rows, query, ranking, options
        self._words = query_terms(text) if rows.layout.words else []
        self._terms = {
            BM25: search_terms(self._words, ranking.captions),
            TEXT_BM25: list(dict.fromkeys(term for word in self._words for term in word)),
        }
        self._lists = dict[str, _WordList]()

    def page(self) -> list[Candidate]:
        """Find the records with the highest scores, best first, one of each group."""
        options, most = self._options, self._rows.layout.index.max_results
        last, groups = options.offset + options.limit, dict[str, Candidate]()
        for depth in DEPTHS:
            candidates, ends, is_complete = self._candidates(min(depth, most))
            least = -math.inf if is_complete else self._most_of_others(ends)
            for candidate in self._ranked(candidates, ends, least):
                groups.setdefault(group_of(candidate.found, options.group_by), candidate)
            if len(groups) >= last or is_complete:
                break
        return list(groups.values())[options.offset : last]

    def _candidates(self, depth: int) -> tuple[dict[str, Candidate], _Ends, bool]:
        """Collect the candidates of a depth by id, and whether no other record can be a hit."""
        options, query = self._options, self._query[np.newaxis]
        images = search(self._rows, query, options.replace(on="image"), depth)[0]
        captions = search(self._rows, query, options.replace(on="text"), depth)[0]
        words, texts = self._by_words(BM25, depth), self._by_words(TEXT_BM25, depth)
        candidates = {found.id: self._new(found) for found in (*captions, *images)}
        for found in images:
            candidates[found.id].image = found.score
        for found in captions:
            candidates[found.id].caption = found.score
        ends = _Ends(
            image=images[-1].score if images else -1.0,
            caption=captions[-1].score if captions else -1.0,
            bm25=words.end(depth),
        )
        listed = {*islice(words.scores, depth), *islice(texts.scores, depth)}
        self._read(candidates, sorted(listed - candidates.keys()))
        self._add_words(candidates, words, ends)
        self._add_text(candidates, texts, ends, depth=depth)
        least, deepest = options.min_score, min(DEPTHS[-1], self._rows.layout.index.max_results)
        is_complete = len(images) < depth or depth == deepest
        return candidates, ends, is_complete or (least is not None and ends.image < least)

    def _new(self, found: Hit) -> Candidate:
        is_given, is_any = found.caption_source == "given", bool(found.caption_source)
        return Candidate(found, is_any if self._ranking.captions == "all" else is_given)

    def _by_words(self, column: str, depth: int) -> _WordList:
        """Find at least the best `depth` records by words."""
        known = self._lists.get(column)
        if known is None or (known.is_cut and len(known.scores) < depth):
            size = max(depth, _LISTED)
            scores = self._look_up(column, size) if self._words else {}
            known = self._lists[column] = _WordList(scores, is_cut=len(scores) == size)
        return known

    def _look_up(self, column: str, k: int, ids: Set[str] | None = None) -> dict[str, float]:
        filter = shown(self._options.filter)
        return self._rows.words(self._terms[column], k, filter, column=column, ids=ids)

    def _unlisted(
        self, column: str, words: _WordList, candidates: Mapping[str, Candidate]
    ) -> dict[str, float]:
        """Find the BM25 of candidates that a list lacks."""
        ids = sorted(candidates.keys() - words.scores.keys()) if words.is_cut else []
        parts = (self._look_up(column, len(some), set(some)) for some in batches(ids, DEPTHS[-2]))
        return {id: score for part in parts for id, score in part.items()}

    def _add_words(
        self, candidates: Mapping[str, Candidate], words: _WordList, ends: _Ends
    ) -> None:
        """Add BM25, also of candidates that the list lacks."""
        unlisted = self._unlisted(BM25, words, candidates)
        for id, candidate in candidates.items():
            candidate.bm25 = words.scores.get(id) or min(unlisted.get(id, 0.0), ends.bm25)

    def _add_text(
        self, candidates: Mapping[str, Candidate], texts: _WordList, ends: _Ends, *, depth: int
    ) -> None:
        """Add the shares of words inside images, also of candidates that the list lacks."""
        unlisted = self._unlisted(TEXT_BM25, texts, candidates)
        ids = candidates.keys() & (texts.scores.keys() | unlisted.keys())
        rows = self._rows.get(ids, [ID, TEXT_WORDS], freshness=self._rows.freshness)
        words = [(indexed_words([one]), indexed_words([other])) for one, other in self._words]
        for id, row in rows.items():
            candidates[id].inside = share(words, row[TEXT_WORDS].split(" "))
        if texts.end(depth):
            ends.inside = min((candidates[id].inside for id in rows), default=0.0)

    def _ranked(
        self, candidates: dict[str, Candidate], ends: _Ends, least: float
    ) -> list[Candidate]:
        """Rank the candidates that no other record precedes, by their exact scores."""
        similar = self._similar(candidates, ends)
        most = self._scores(similar, ends)
        groups = dict[str, float]()
        for score, one in zip(most, similar, strict=True):
            if one.is_known:
                group = group_of(one.found, self._options.group_by)
                groups[group] = max(score, groups.get(group, score))
        wanted = self._options.offset + self._options.limit
        if len(groups) >= wanted:
            least = max(least, sorted(groups.values(), reverse=True)[wanted - 1])
        # The vectors of the others need not be read: their scores are too low in any case.
        least -= 10.0**-SCORE_DIGITS
        pairs = zip(similar, most, strict=True)
        ids = [one.found.id for one, score in pairs if not one.is_known and score >= least]
        self._read(candidates, ids)
        ranked = [one for one in self._similar(candidates, ends) if one.is_known]
        scored = zip(self._scores(ranked, ends), ranked, strict=True)
        best = [(sort_key(score, one.found.id), one) for score, one in scored if score >= least]
        return [one for _, one in sorted(best, key=itemgetter(0))]

    def _most_of_others(self, ends: _Ends) -> float:
        """Return the highest score that a record may have that is not a candidate."""
        other = Hit(id="", score=0.0, path="", caption="", metadata={})
        words = {"bm25": ends.bm25, "inside": ends.inside}
        others = [Candidate(other, has_caption, **words) for has_caption in (True, False)]
        return max(self._scores(others, ends))

    def _similar(self, candidates: Mapping[str, Candidate], ends: _Ends) -> list[Candidate]:
        """Select the candidates whose image may have the minimum cosine."""
        least = -1.0 if self._options.min_score is None else self._options.min_score
        return [one for one in candidates.values() if _or(one.image, ends.image) >= least]

    def _scores(self, candidates: Sequence[Candidate], ends: _Ends) -> list[float]:
        """Compute the scores of candidates; the highest possible ones where cosines are unknown."""
        image = np.array([_or(one.image, ends.image) for one in candidates], np.float64)
        # A caption without a vector is replaced by the cosine of its image.
        most = np.maximum(ends.caption, self._ranking.uncaptioned * image)
        caption = np.array(
            [
                _or(one.caption, bound) if one.has_caption else math.nan
                for one, bound in zip(candidates, most.tolist(), strict=True)
            ],
            np.float64,
        )
        words = np.array([(one.bm25, one.inside) for one in candidates], np.float64).reshape(-1, 2)
        scores: list[float] = fused_scores(image, caption, words, self._ranking).tolist()
        return scores

    def _read(self, candidates: dict[str, Candidate], ids: Sequence[str]) -> None:
        """Read the vectors of candidates; those deleted or hidden meanwhile are dropped."""
        layout = self._rows.layout
        columns = [*FOUND_COLUMNS, HIDDEN, HAS_TEXT, *layout.columns]
        read = self._rows.get(ids, columns, freshness=self._rows.freshness)
        for id in ids:
            row = read.get(id)
            if row is None or row[HIDDEN]:
                candidates.pop(id, None)
                continue
            one = candidates.setdefault(id, self._new(to_found(row, 0.0)))
            one.image = float(self._query @ vector_of(row, layout, "image"))
            one.caption = math.nan
            if row[HAS_TEXT]:
                one.caption = float(self._query @ vector_of(row, layout, "text"))


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
