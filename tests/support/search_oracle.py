"""Searches in plain Python, by the rules that the docstrings state: slow, and easy to check."""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from jaxtyping import Float

import filter_oracle
from coca.search.ranking import Spread, TypedQuery
from coca.search.records import Hit, Origin, Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.store import Collection
from coca.search.words import (
    FIELD_WEIGHTS,
    MARKS,
    NAMED,
    SEEN,
    TAGGED,
    TEXT,
    TEXT_FIELDS,
    field_terms,
    query_terms,
    search_terms,
    terms_of,
    texts_of,
)
from store_changes import patch
from store_writer import direction

TOLERANCE = 1e-5
SPREADS = (Spread(0.0, 0.02), Spread(-0.1, 0.08))
"""Cosines of queries with texts in general, so that about half of the captions count."""
K1, B = 1.2, 0.75


@dataclass(frozen=True)
class Expected:
    """One expected hit."""

    record: Record
    score: float
    """Cosine of the query and the image or caption."""
    key: float
    """Sort key, higher is better."""
    copies: int
    group: str


def rank(
    records: Sequence[Record],
    query: Float[np.ndarray, " E"],
    options: SearchOptions,
    *,
    keeps: Callable[[Record], bool] = lambda record: True,
    ranking: Ranking | None = None,
    bm25: Mapping[str, float] | None = None,
    matches: Callable[[str], float] = lambda id: 0.0,
) -> list[Expected]:
    """List all records that a search keeps, best first, before grouping and paging."""
    kept = [record for record in records if not record.hidden and keeps(record)]
    copies = Counter(record.content for record in kept if record.content)
    least = -math.inf if options.min_score is None else options.min_score
    floor = caption_floor(records)
    hits = []
    for record in kept:
        image, caption = cosine(record.vector, query), cosine(record.text_vector, query)
        score = key = image if options.on == "image" else caption
        if ranking is not None:
            has_caption = is_given(record)
            words = (bm25 or {}).get(record.id, 0.0)
            key = (
                ranking.image_weight * image
                + ranking.caption_weight * (max(0.0, caption - floor) if has_caption else 0.0)
                + ranking.words_weight * words / (words + 12)
                + ranking.text_weight * matches(record.id)
            )
        if score >= least:
            same = copies.get(record.content, 1)
            hits.append(Expected(record, score, key, same, group(record, options)))
    return sorted(hits, key=lambda hit: (-hit.key, hit.record.id))


def is_given(record: Record) -> bool:
    """Return whether people gave the caption of a record, and it has a vector."""
    return record.caption_source == "given" and record.text_vector is not None


def caption_floor(records: Sequence[Record]) -> float:
    """Compute the caption floor of `SPREADS`, which falls with the fraction of captions."""
    shown = [record for record in records if not record.hidden]
    fraction = sum(map(is_given, shown)) / max(len(shown), 1)
    return max(spread.mean + 4 * (1 - fraction**4) * spread.deviation for spread in SPREADS)


def cosine(vector: Float[np.ndarray, " E"] | None, query: Float[np.ndarray, " E"]) -> float:
    """Return NaN without a vector, which is below any limit."""
    return math.nan if vector is None else float(np.dot(vector, query))


def group(record: Record, options: SearchOptions) -> str:
    """Name the group of a record, of which the best hit is returned."""
    if options.group_by == "album" and record.album:
        return f"album {record.album}"
    if options.group_by in ("album", "image") and record.content:
        return f"content {record.content}"
    return f"id {record.id}"


def check(hits: Sequence[Hit], expected: Sequence[Expected], options: SearchOptions) -> None:
    """Check a page of hits; records whose keys differ by less than the tolerance may swap."""
    by_id, best = {hit.record.id: hit for hit in expected}, dict[str, Expected]()
    for one in expected:
        best.setdefault(one.group, one)
    page = list(best.values())[options.offset : options.offset + options.limit]
    assert len({by_id[hit.id].group for hit in hits}) == len(hits) == len(page)
    for hit, place in zip(hits, page, strict=True):
        own = by_id[hit.id]
        assert hit.score == pytest.approx(own.score, abs=TOLERANCE)
        assert own.key == pytest.approx(place.key, abs=TOLERANCE)
        assert hit.copies == own.copies
        assert (hit.path, hit.caption) == (own.record.path, own.record.shown_caption)
        if hit.fused_score is not None:
            assert hit.fused_score == pytest.approx(own.key, abs=TOLERANCE)


class Words:
    """Words of all records, hidden ones included, since BM25 has their statistics."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._terms, self._texts = dict[str, Counter[str]](), dict[str, set[str]]()
        self._labels = dict[str, dict[str, set[str]]]()
        self._lengths = dict[str, float]()
        self._seen = dict[str, dict[str, int]]()
        for record in records:
            fields = field_terms(texts_of(record))
            texts = (term for name in TEXT_FIELDS for term in fields.get(name, ()))
            self._texts[record.id] = {term.removeprefix(MARKS[TEXT]) for term in texts}
            self._labels[record.id] = {
                name: {term.removeprefix(MARKS[name]) for term in fields.get(name, ())}
                for name in (NAMED, TAGGED)
            }
            seen = record.metadata.get("looks_like", {})
            self._seen[record.id] = {
                " ".join(terms_of(noun)): percent // 10 for noun, percent in seen.items()
            }
            for name in (TEXT, NAMED, TAGGED, SEEN):
                fields.pop(name, None)
            # In halves, as Counter has whole numbers.
            self._terms[record.id] = Counter()
            for name, terms in fields.items():
                for term in terms:
                    self._terms[record.id][term] += round(2 * FIELD_WEIGHTS[name])
            self._lengths[record.id] = self._terms[record.id].total() / 2

    def bm25(self, text: str, ranking: Ranking) -> dict[str, float]:
        """Compute BM25 over weighted fields (BM25F); scores above 0 by id."""
        count, mean = len(self._lengths), sum(self._lengths.values()) / max(len(self._lengths), 1)
        scores = dict[str, float]()
        for term in search_terms(query_terms(text), ranking.captions):
            found = {id: terms[term] / 2 for id, terms in self._terms.items() if term in terms}
            idf = math.log(1 + (count - len(found) + 0.5) / (len(found) + 0.5))
            for id, frequency in found.items():
                norm = K1 * (1 - B + B * self._lengths[id] / mean)
                scores[id] = scores.get(id, 0.0) + idf * frequency / (frequency + norm)
        return scores

    def matches(self, id: str, text: str) -> float:
        """Compute the match of a query with the labels and texts of a record."""
        query = query_terms(text)
        stems = [english for english, _ in query]
        covered = {NAMED: set[int](), TAGGED: set[int]()}
        for name, labels in self._labels[id].items():
            for label in labels:
                size = len(label.split(" "))
                for start in range(len(stems) - size + 1) if size <= 4 else ():
                    if " ".join(stems[start : start + size]) == label:
                        covered[name].update(range(start, start + size))
        count = max(len(query), 1)
        share = sum(bool({*word} & self._texts[id]) for word in query) / count
        seen = 4 * self._seen[id].get(" ".join(stems), 0) / 10
        return len(covered[NAMED]) + (len(covered[TAGGED]) / count) ** 2 + share**4 + seen


# A collection, searches of it, and their check.


NOUNS = ("car", "boat", "dog", "lake", "house", "tree", "Anna", "Lisbon")
COLOURS = ("red", "blue", "old", "small")


@dataclass(repr=False)
class Filled:
    """A collection with its records; its default text is short, as Hypothesis prints it."""

    collection: Collection
    records: list[Record]
    words: Words


def draw(chance: random.Random, number: int) -> Record:
    """Draw a record: a copy or not, with a caption that is given, generated or missing."""
    words = [chance.choice(COLOURS), *chance.choices(NOUNS, k=chance.randint(1, 3))]
    caption = " ".join(words) if chance.random() < 0.7 else ""
    content = f"{chance.randrange(600):032x}" if chance.random() < 0.6 else ""
    metadata: dict[str, Any] = {"n": number} if number % 3 else {"n": str(number)}
    if chance.random() < 0.1:
        metadata["ocr_text"] = " ".join(chance.choices(NOUNS, k=4))
    if chance.random() < 0.5:
        seen = chance.choices((*NOUNS, f"{COLOURS[0]} car"), k=3)
        metadata |= {"looks_like": {noun: chance.randrange(100) for noun in seen}}
    if chance.random() < 0.1:
        metadata |= {"people": [chance.choice(NOUNS)], "city": chance.choice(NOUNS)}
    return Record(
        id=f"{number:05}",
        path=f"/photos/{chance.choice(NOUNS)}/IMG_{number}.jpg",
        content=content,
        caption=caption,
        time=number,
        tags=tuple(chance.sample(NOUNS, chance.randrange(3))),
        album=f"/albums/{chance.choice(NOUNS)} {number % 40}" if chance.random() < 0.5 else "",
        hidden=chance.random() < 0.1,
        metadata=metadata,
        vector=direction(content or f"{number}"),
        text_vector=direction(caption) if caption and chance.random() < 0.9 else None,
        origin=Origin(captioned=chance.random() < 0.5),
    )


def fill(collection: Collection, rows: int) -> Filled:
    """Write, rewrite, patch and delete records, and return those that are left."""
    chance = random.Random(7)
    there = {one.id: one for one in (draw(chance, number) for number in range(rows))}
    collection.upsert(there.values())
    gone = chance.sample(sorted(there), rows // 10)
    collection.delete(gone)
    there = {id: one for id, one in there.items() if id not in gone}
    again = [draw(chance, chance.randrange(rows)) for _ in range(rows // 10)]
    collection.upsert(again)
    there |= {one.id: one for one in again}
    changes: dict[str, Any] = {
        id: {"hidden": chance.random() < 0.5, "tags": ("patched",)}
        for id in chance.sample(sorted(there), rows // 20)
    }
    patch(collection, changes)
    collection.flush()
    records = [replace(one, **changes.get(id, {})) for id, one in there.items()]
    return Filled(collection, records, Words(records))


LEAVES = (
    "time >= 300",
    "time in [3, 4, 5, 1200]",
    'metadata["n"] < 900',
    'metadata["people"][0] == "Anna"',
    'array_contains_any(tags, ["dog", "patched"])',
    'caption_source == "given"',
    'album == ""',
    'caption like "red%"',
    "hidden == true",
)
FILTERS = st.one_of(
    st.just(""),
    st.recursive(
        st.sampled_from(LEAVES),
        lambda parts: st.one_of(
            parts.map("not ({})".format),
            st.builds("({}) and ({})".format, parts, parts),
            st.builds("({}) or ({})".format, parts, parts),
        ),
        max_leaves=5,
    ),
)
WEIGHT = st.sampled_from([0.0, 0.1, 0.4, 1.0, 3.0])
RANKINGS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("image_weight", "caption_weight", "words_weight", "text_weight"), WEIGHT),
        "captions": st.sampled_from(["all", "given"]),
    }
)
TEXTS = st.lists(
    st.sampled_from([*NOUNS, *COLOURS, "the", "zebra", "boats", "IMG", "patched"]),
    min_size=1,
    max_size=4,
).map(" ".join)
OPTIONS = st.fixed_dictionaries(
    {
        "limit": st.sampled_from([1, 2, 10, 100, 2_000]),
        "offset": st.sampled_from([0, 0, 1, 7, 90, 1_000]),
        "min_score": st.sampled_from([None, None, -1.0, -0.2, 0.0, 0.3, 0.9]),
        "on": st.sampled_from(["image", "text"]),
        "group_by": st.sampled_from(["image", "album", "path"]),
    }
)


def keeper(filter: str) -> Callable[[Record], bool]:
    return lambda record: not filter or filter_oracle.keeps(filter, record)


def check_nearest(filled: Filled, asked: SearchOptions, text: str) -> None:
    query = direction(text)

    def search(asked: SearchOptions) -> list[Hit]:
        return filled.collection.nearest(query[np.newaxis], asked)[0]

    expected = rank(filled.records, query, asked, keeps=keeper(asked.filter))
    check_pages(search, asked, expected)


def check_ranked(
    filled: Filled,
    asked: SearchOptions,
    text: str,
    ranking: Ranking,
    bm25: Mapping[str, float],
    *,
    texts: bool = True,
) -> None:
    asked, query = asked.replace(on="image"), direction(text)

    def search(asked: SearchOptions) -> list[Hit]:
        return filled.collection.ranked(TypedQuery(query, text, SPREADS), ranking, asked)

    expected = rank(
        filled.records,
        query,
        asked,
        keeps=keeper(asked.filter),
        ranking=ranking,
        bm25=bm25,
        matches=lambda id: filled.words.matches(id, text) * texts,
    )
    for hit in check_pages(search, asked, expected):
        assert hit.bm25 == pytest.approx(bm25.get(hit.id), abs=1e-4)


def check_pages(
    search: Callable[[SearchOptions], list[Hit]],
    asked: SearchOptions,
    expected: Sequence[Expected],
) -> list[Hit]:
    hits = search(asked)
    check(hits, expected, asked)
    rest = search(asked.replace(offset=asked.offset + asked.limit))
    assert search(asked.replace(limit=2 * asked.limit)) == [*hits, *rest]
    return hits
