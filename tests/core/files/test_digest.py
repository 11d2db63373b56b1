"""Cached digests: used while the file is the same, never after it changed."""

import os
from pathlib import Path

import pytest

from coca.core.files import atomic
from coca.core.files.atomic import cached_digest, user_cache


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(atomic, "CACHED_BYTES", 4)
    # A change time is trusted at once, so that no test waits.
    monkeypatch.setattr(atomic, "_SETTLED_S", -3600.0)
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    path.write_bytes(b"first")
    return path


def digest_of(path: Path, reads: list[str]) -> str:
    def compute() -> str:
        reads.append(path.read_text())
        return f"digest of {reads[-1]}"

    return cached_digest(path, compute)


def test_an_unchanged_file_is_read_once(weights: Path) -> None:
    reads: list[str] = []
    assert digest_of(weights, reads) == digest_of(weights, reads) == "digest of first"
    assert reads == ["first"]


def test_an_edit_that_keeps_size_and_modification_time_is_seen(weights: Path) -> None:
    reads: list[str] = []
    digest_of(weights, reads)
    before = weights.stat()
    while weights.stat().st_ctime_ns == before.st_ctime_ns:
        weights.write_bytes(b"other")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of(weights, reads) == "digest of other"


def test_a_small_or_a_new_file_is_always_read(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_SETTLED_S", 3600.0)
    reads: list[str] = []
    digest_of(weights, reads)
    monkeypatch.setattr(atomic, "_SETTLED_S", -3600.0)
    weights.write_bytes(b"abc")
    digest_of(weights, reads)
    digest_of(weights, reads)
    assert reads == ["first", "abc", "abc"]
    assert not user_cache().exists()


def test_a_cache_that_cannot_be_written_costs_time_only(weights: Path) -> None:
    user_cache().parent.mkdir()
    user_cache().write_text("a file where the folder would be")
    reads: list[str] = []
    assert digest_of(weights, reads) == digest_of(weights, reads) == "digest of first"
    assert len(reads) == 2
