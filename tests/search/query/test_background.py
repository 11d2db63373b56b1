from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from coca.search.query import background
from coca.search.query.background import background_texts, spreads_of

SIZE, THREADS = 8, 8


class Embedder:
    """Counts the texts that it embeds, as vectors drawn by their length."""

    fingerprint, embed_dim = "of test_background", SIZE

    def __init__(self) -> None:
        self.embedded = 0

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.embedded += len(texts)
        drawn = [np.random.default_rng(len(text)).standard_normal(SIZE) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in drawn], np.float32)


@pytest.fixture
def embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(background, "_EMBEDDED", {})
    return Embedder()


def test_texts_are_unique_and_of_two_kinds() -> None:
    sentences, names = background_texts()
    assert len(set(sentences)) == len(sentences) == background.SENTENCES
    assert len(set(names)) == len(names) > 100


def test_the_spread_is_that_of_the_cosines_with_each_kind(embedder: Embedder) -> None:
    query = embedder.embed_texts(["a query"])[0]
    for texts, spread in zip(background_texts(), spreads_of(embedder, query), strict=True):
        cosines = embedder.embed_texts(texts) @ query
        # The vectors are kept with 11 bits.
        assert spread.mean == pytest.approx(cosines.mean(), abs=1e-3)
        assert spread.deviation == pytest.approx(cosines.std(), abs=1e-3)


def test_first_queries_at_the_same_time_embed_the_texts_once(embedder: Embedder) -> None:
    query, start = np.ones(SIZE, np.float32) / np.float32(SIZE**0.5), Barrier(THREADS)

    def ask(_: int) -> object:
        start.wait()
        return spreads_of(embedder, query)

    with ThreadPoolExecutor(THREADS) as pool:
        first, *others = pool.map(ask, range(THREADS))
    assert others == [first] * (THREADS - 1)
    assert embedder.embedded == sum(map(len, background_texts()))
    background._EMBEDDED.clear()
    assert spreads_of(embedder, query) == first
    assert embedder.embedded == sum(map(len, background_texts()))
