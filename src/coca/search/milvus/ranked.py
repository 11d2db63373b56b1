"""Search of Milvus by image, caption and words: candidates of lists, ranked by their exact scores.

Candidates are the nearest images, the nearest captions, and the records with the best BM25 of the
query's terms in what they say and in their labels and texts. A candidate is a hit if no other
record can have a higher score than its own, as far as the ends of the lists show (the threshold
algorithm of Fagin et al. 2001). So the hits are those of an exact search, if the searches of images
and captions are exact. One bound is assumed: the labels and texts of a record that is in no
list match the query at most as well as the best of their list.

Dimensions: N candidates, E embedding.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import numpy as np

from coca.search.milvus.ann import FOUND_COLUMNS, search, shown, to_found
from coca.search.milvus.rows import Rows, indexed_word, vector_of
from coca.search.milvus.schema import BM25, TEXT_BM25, TEXT_WORDS
from coca.search.ranking import TypedQuery, parts_of
from coca.search.records import HAS_TEXT, HIDDEN, ID, SCORE_DIGITS, Hit, batches, group_of, sort_key
from coca.search.search_options import MAX_RESULTS, Ranking, SearchOptions
from coca.search.words import label_keys, query_terms, search_terms, seen_terms, text_match

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
    text: float = 0.0
    """Match of labels and texts, see `coca.search.words.text_match`."""

    @property
    def is_known(self) -> bool:
        """Whether all its cosines are known."""
        return self.image is not None and (self.caption is not None or not self.has_caption)

    def columns(self) -> tuple[float, float, float, float]:
        """Return cosines, BM25 and match of texts for `ranked_hits`; cosines must be known."""
        assert self.image is not None
        caption = math.nan if self.caption is None or not self.has_caption else self.caption
        return self.image, caption, self.bm25, self.text


@dataclass(slots=True)
class _Ends:
    """Ends of the lists: no record that a list lacks has a higher similarity."""

    image: float
    caption: float
    bm25: float
    text: float


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
        self, rows: Rows, query: TypedQuery, ranking: Ranking, options: SearchOptions
    ) -> None:
        """Search for a query of length 1; the filter of the options is one of Milvus."""
        self._rows, self._query, self._ranking, self._options = rows, query, ranking, options
        self.floor = query.caption_floor(rows.captioned())
        self._words = query_terms(query.text) if rows.layout.words else []
        texts = [term for word in self._words for term in word]
        self._terms = {
            BM25: search_terms(self._words, ranking.captions),
            TEXT_BM25: list(
                dict.fromkeys((*texts, *label_keys(self._words), *seen_terms(self._words)))
            ),
        }
        self._lists = dict[str, _WordList]()
        self._matches = dict[str, float]()

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
        options, query = self._options, self._query.vector[np.newaxis]
        images = search(self._rows, query, options.replace(on="image"), depth)[0]
        captions = search(self._rows, query, options.replace(on="text"), depth)[0]
        words, texts = self._by_words(BM25, depth), self._by_words(TEXT_BM25, depth)
        candidates = {found.id: self._new(found) for found in (*captions, *images)}
        for found in images:
            candidates[found.id].image = found.score
        for found in captions:
            candidates[found.id].caption = found.score
        matches = self._matches_of(texts.scores)
        best = sorted(matches, key=matches.__getitem__, reverse=True)
        others = best[:1] if texts.is_cut else best[depth : depth + 1]
        ends = _Ends(
            image=images[-1].score if images else -1.0,
            caption=captions[-1].score if captions else -1.0,
            bm25=words.end(depth),
            text=matches[others[0]] if others else 0.0,
        )
        listed = {*islice(words.scores, depth), *best[:depth]}
        self._read(candidates, sorted(listed - candidates.keys()))
        self._add_words(candidates, words, ends)
        for id, match in self._matches_of(candidates).items():
            candidates[id].text = match
        least, deepest = options.min_score, min(DEPTHS[-1], self._rows.layout.index.max_results)
        is_complete = len(images) < depth or depth == deepest
        return candidates, ends, is_complete or (least is not None and ends.image < least)

    def _new(self, found: Hit) -> Candidate:
        return Candidate(found, found.caption_source == "given")

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

    def _add_words(
        self, candidates: Mapping[str, Candidate], words: _WordList, ends: _Ends
    ) -> None:
        """Add BM25, also of candidates that the list lacks."""
        unlisted = dict[str, float]()
        ids = sorted(candidates.keys() - words.scores.keys()) if words.is_cut else []
        for some in batches(ids, DEPTHS[-2]):
            unlisted |= self._look_up(BM25, len(some), set(some))
        for id, candidate in candidates.items():
            candidate.bm25 = words.scores.get(id) or min(unlisted.get(id, 0.0), ends.bm25)

    def _matches_of(self, ids: Iterable[str]) -> dict[str, float]:
        """Compute the matches of labels and texts of records; each record is read once."""
        ids = list(ids) if self._words else []
        unread = [id for id in ids if id not in self._matches]
        rows = self._rows.get(unread, [ID, TEXT_WORDS], freshness=self._rows.freshness)
        for id, row in rows.items():
            terms = set(row[TEXT_WORDS].split(" "))
            self._matches[id] = text_match(self._words, terms, written=indexed_word)
        return {id: self._matches[id] for id in ids if id in self._matches}

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
        words = {"bm25": ends.bm25, "text": ends.text}
        others = [Candidate(other, has_caption, **words) for has_caption in (True, False)]
        return max(self._scores(others, ends))

    def _similar(self, candidates: Mapping[str, Candidate], ends: _Ends) -> list[Candidate]:
        """Select the candidates whose image may have the minimum cosine."""
        least = -1.0 if self._options.min_score is None else self._options.min_score
        return [one for one in candidates.values() if _or(one.image, ends.image) >= least]

    def _scores(self, candidates: Sequence[Candidate], ends: _Ends) -> list[float]:
        """Compute the scores of candidates; the highest possible ones where cosines are unknown."""
        image = np.array([_or(one.image, ends.image) for one in candidates], np.float64)
        captions = [
            _or(one.caption, ends.caption) if one.has_caption else math.nan for one in candidates
        ]
        caption = np.array(captions, np.float64)
        words = np.array([(one.bm25, one.text) for one in candidates], np.float64).reshape(-1, 2)
        parts = parts_of(image, caption, words, self._ranking, self.floor)
        scores: list[float] = np.sum([*parts.values()], axis=0).tolist()
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
            one.image = float(self._query.vector @ vector_of(row, layout, "image"))
            one.caption = math.nan
            if row[HAS_TEXT]:
                one.caption = float(self._query.vector @ vector_of(row, layout, "text"))


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
