"""Hybrid search of the static page against the Python code whose results it must equal."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from coca.release.browser.static_page import (
    casefold_exceptions,
    ranking_settings,
    sorted_records,
    word_table,
    write_items,
    write_vectors,
)
from coca.search.milvus.collection import Collection
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import RULES, embed_queries
from coca.search.query.words import WordIndex, split_words
from coca.search.records import Origin, Record
from page_scripts import NODE, node

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

RANGES = (
    (32, 127),
    (160, 0x250),
    (0x370, 0x400),
    (0x900, 0x980),
    (0x1E90, 0x2070),
    (0x13A0, 0x13F6),
)
WORDS = "red car blue dog dogs Straße STRASSE cafe\u0301 caf\xe9 cars Ab_1 x² snow"
EMBED_DIM = 16
PAGE_SEARCH = """
import { BM25 } from "PAGE/bm25.js";
import { nameEmoji } from "PAGE/queries.js";
import { rankedRows } from "PAGE/ranking.js";
import { Vectors } from "PAGE/vectors.js";
const { items, ranking } = given;
const vectors = (bytes) => new Vectors(Uint8Array.from(bytes).buffer, given.size);
const [images, captions] = [given.images, given.captions].map(vectors);
const counts = (row) => items[row].caption_source === "given" && captions.has(row);
const words = new BM25(ranking.bm25);
const search = ({ text, vector }) => {
  const query = Float32Array.from(vector);
  const scores = words.scores(nameEmoji(text, given.rules));
  const both = [images.scores(query), captions.scores(query)];
  return rankedRows(...both, scores, ranking, counts).map((row) => items[row].id);
};
console.log(JSON.stringify(given.queries.map(search)));
"""


def random_texts(count: int) -> list[str]:
    """Texts of known words and of random characters."""
    draw = random.Random(0)
    found = []
    for _ in range(count):
        words = [draw.choice(WORDS.split()) for _ in range(draw.randrange(6))]
        first, last = draw.choice(RANGES)
        letters = "".join(chr(draw.randrange(first, last)) for _ in range(draw.randrange(12)))
        found.append(" ".join([*words, letters]))
    return found


def test_the_page_splits_words_as_python_does() -> None:
    script = """
import { splitWords } from "PAGE/bm25.js";
console.log(JSON.stringify(given.texts.map((text) => splitWords(text, given.casefold))));
"""
    given = ["ΟΔΟΣ", "İıß ẞ", "a_b-c'd", "12:30 ½ 3.5", "the dog\u2019s", "狗和红car"]
    given += random_texts(300)
    found = node(script, {"texts": given, "casefold": casefold_exceptions()})
    for text, words in zip(given, found, strict=True):
        assert words == split_words(text), text


def test_the_page_scores_captions_as_python_does() -> None:
    script = """
import { BM25 } from "PAGE/bm25.js";
const index = new BM25(given.table);
console.log(JSON.stringify(given.queries.map((query) => [...index.scores(query)])));
"""
    captions = [*random_texts(120), "", "!", "she runs and carries two boxes", "a running bus"]
    queries = ["red dog", "strasse", "Cafe\u0301 CAFÉ", "x2 snow snow", "zebra", "", "!", "the"]
    queries += ["run", "running", "runs", "carry", "carried", "carrying", "a box", "buses", "to be"]
    index = WordIndex.build(captions)
    given = {"table": word_table(captions), "queries": queries}
    for query, hits in zip(queries, node(script, given), strict=True):
        rows, scores = index.scores(query)
        assert dict(map(tuple, hits)) == pytest.approx(
            dict(zip(rows.tolist(), scores.tolist(), strict=True)), rel=1e-5
        ), query


class _Texts:
    """Embedder of texts: a random vector for each, the same for the same text."""

    fingerprint, embed_dim = "f" * 24, EMBED_DIM

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        raise NotImplementedError

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        return np.stack([_exact(np.random.default_rng(list(text.encode()))) for text in texts])


def _exact(random: np.random.Generator) -> Float32[np.ndarray, " E"]:
    """Draw a unit vector that 8-bit numbers represent exactly."""
    codes = random.integers(-126, 127, EMBED_DIM).astype(np.float32)
    codes[random.integers(EMBED_DIM)] = 127
    return codes / np.linalg.norm(codes)


def _records(captioned: float, count: int = 150) -> list[Record]:
    """Records with captions that people gave, with captions of a model, and without any.

    Every fifth record equals the one before, so that the two tie in all rankings.
    """
    draw, random = np.random.default_rng(0), random_texts(count)
    records: list[Record] = []
    for number, text in enumerate(random):
        given, has_vector = draw.random() < captioned, draw.random() < 0.8
        one = Record(
            id=f"{number:03}",
            path=f"{number}.jpg",
            caption="" if number % 7 == 0 else text.strip(),
            vector=_exact(draw),
            text_vector=_exact(draw) if has_vector and number % 7 else None,
            origin=Origin(captioned=not given),
        )
        records.append(replace(records[-1], id=one.id) if number % 5 == 4 else one)
    # In another order than by id.
    return records[::-1]


@pytest.mark.parametrize("captioned", [0.1, 0.6, 1.0])
def test_the_page_ranks_as_python_does(captioned: float, tmp_path: Path) -> None:
    texts = _Texts()
    queries = ["red", "blue dogs", "a strasse", "caf\xe9s", "zebra", "snow " * 4, "? snow x²", "?"]
    with Collection.open(
        str(tmp_path / "images.db"),
        embed_dim=EMBED_DIM,
        fingerprint=texts.fingerprint,
        create=True,
    ) as collection:
        collection.upsert(_records(captioned))
        records = sorted_records(collection)
        settings = ranking_settings(records)
        assert settings is not None
        write_vectors(tmp_path, records, captions=True)
        items, _ = write_items(tmp_path, records)
        engines = [SearchEngine(texts, one) for one in (collection, CollectionCopy(collection))]
        expected = [[engine.search(text, k=150) for text in queries] for engine in engines]
    given = {
        "items": items,
        "ranking": settings,
        "rules": RULES,
        "size": EMBED_DIM,
        "images": [*(tmp_path / "vectors.bin").read_bytes()],
        "captions": [*(tmp_path / "caption_vectors.bin").read_bytes()],
        "queries": [
            {"text": text, "vector": embed_queries(texts.embed_texts, [text])[0].tolist()}
            for text in queries
        ],
    }
    pages = node(PAGE_SEARCH, given)
    for hits_of in expected:
        for text, hits, found in zip(queries, hits_of, pages, strict=True):
            assert found == [hit.id for hit in hits], text


def test_a_page_without_given_captions_searches_images_alone() -> None:
    assert ranking_settings(_records(captioned=0.0)) is None
