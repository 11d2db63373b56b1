"""Damage of a file: reported in one sentence, and repaired from the records where possible."""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import CocaError, SearchError
from coca.search.ranking import TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.sqlite import blocks
from coca.search.sqlite.check import check_file
from coca.search.store import Collection
from coca.search.stores import open_store
from search_oracle import SPREADS
from store_writer import DIM, record

PAGE = 8_192
COPIES = 60


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with a block of 100 rows, rows that were written since, and deleted records."""
    monkeypatch.setattr(blocks, "FOLD_ROWS", 90)
    path = tmp_path / "a.db"
    with open_store(str(path), create=True) as store:
        collection = store.create("c", embed_dim=DIM, fingerprint="one")
        collection.upsert(record(f"{n}", n) for n in range(100))
        collection.delete([f"{n}" for n in range(10, 15)])
        collection.upsert(record(f"{n}", 3 * n) for n in (*range(20, 40), *range(100, 103)))
    return path


def answers(collection: Collection) -> list[list[tuple[str, float]]]:
    """Search by vector, words and filter."""
    query = np.ones((1, DIM), np.float32) / np.float32(DIM**0.5)
    options, words = SearchOptions(limit=200, group_by="path"), "word3 and word5"
    found = [
        collection.nearest(query, options)[0],
        collection.nearest(query, SearchOptions(limit=200, group_by="path", on="text"))[0],
        collection.nearest(query, SearchOptions(limit=200, filter='caption != ""'))[0],
        collection.ranked(TypedQuery(query[0], words, SPREADS), Ranking(), options),
    ]
    hits = [[(hit.id, round(hit.score, 5)) for hit in some] for some in found]
    return [*hits, [(id, round(score, 4)) for id, score in collection.words(words, 200)]]


def opened(path: Path) -> list[list[tuple[str, float]]]:
    with open_store(str(path)) as store:
        return answers(store.open("c"))


def outcome(path: Path) -> tuple[list[list[tuple[str, float]]] | None, str]:
    """Return the answers, or the sentence of an error."""
    try:
        return opened(path), ""
    except CocaError as error:
        return None, str(error)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as file:
        for statement in statements:
            assert file.execute(statement).rowcount != 0
        file.commit()


def test_a_sound_file_has_no_findings(path: Path) -> None:
    for full in (False, True):
        report = check_file(str(path), full=full)
        assert (report.findings, report.left, report.blocks) == ((), 0, 1)


DAMAGES = {
    "codes": ("UPDATE c_blocks SET data = zeroblob(length(data)) WHERE kind = 'image'",),
    "codes of a row": ("UPDATE c_recent SET image = zeroblob(20)",),
    "no codes": ("DELETE FROM c_blocks",),
    "postings": ("UPDATE c_words SET data = zeroblob(10) WHERE term > ''",),
    "a term": ("DELETE FROM c_words WHERE term = 'word3'",),
    "no recent rows": ("DELETE FROM c_recent",),
    "former rules": ("UPDATE c_words SET data = 1 WHERE term = ''",),
    "former rules of a row": ("UPDATE c_recent SET rules = 1",),
    "counts": ("UPDATE collections SET records = 7, words = 9",),
    "orphans": (
        "INSERT INTO c_vectors SELECT 999, image, caption, hash FROM c_vectors LIMIT 1",
        "INSERT INTO c_deleted SELECT 'x', row, 1 FROM c LIMIT 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_derived_data_are_made_again(path: Path, damage: tuple[str, ...]) -> None:
    expected = opened(path)
    with open_store(str(path)) as store:
        before = store.open("c").get(store.open("c").ids())
    change(path, *damage)
    found = check_file(str(path), full=True)
    assert found.left == len(found.findings) > 0
    assert check_file(str(path), full=True) == found
    repaired = check_file(str(path), repair=True)
    assert repaired.left == 0 < len(repaired.findings)
    assert check_file(str(path), full=True).findings == ()
    assert opened(path) == expected
    with open_store(str(path)) as store:
        assert store.open("c").get(before) == before


def test_a_reader_that_is_open_sees_a_repair(path: Path) -> None:
    expected = opened(path)
    change(path, "DELETE FROM c_words WHERE term = 'word3'")
    with open_store(str(path)) as store:
        collection = store.open("c")
        assert answers(collection) != expected
        check_file(str(path), repair=True)
        assert answers(collection) == expected


BROKEN = {
    "metadata": "UPDATE c SET metadata = '{' WHERE id = '50'",
    "vector": "UPDATE c_vectors SET image = randomblob(64) WHERE row = 50",
    "short vector": "UPDATE c_vectors SET image = zeroblob(3) WHERE row = 50",
    "no vectors": "DELETE FROM c_vectors WHERE row = 50",
    "letters": "UPDATE c SET caption = CAST(x'ff41' AS TEXT) WHERE id = '50'",
}


@pytest.mark.parametrize("statement", BROKEN.values(), ids=BROKEN)
def test_a_record_that_cannot_be_read_is_named_and_stays(path: Path, statement: str) -> None:
    change(path, statement)
    with pytest.raises(SearchError) as caught:
        opened(path)
    assert re.fullmatch(r".*a\.db.*", str(caught.value))
    report = check_file(str(path), repair=True)
    assert any("the record of row 50 cannot be read" in line for line in report.findings)
    assert report.left == 1
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM c WHERE row = 50").fetchone() == (1,)


def noise(chance: random.Random, page: bytes) -> bytes:
    return chance.randbytes(len(page))


def zeros(chance: random.Random, page: bytes) -> bytes:
    return bytes(len(page))


def stretch(chance: random.Random, page: bytes) -> bytes:
    at = chance.randrange(len(page) - 512)
    return page[:at] + chance.randbytes(512) + page[at + 512 :]


@pytest.mark.parametrize("damage", [noise, zeros, stretch])
def test_a_damaged_page_gives_one_sentence_or_the_same_hits(
    path: Path, damage: Callable[[random.Random, bytes], bytes]
) -> None:
    expected, chance, faults = opened(path), random.Random(damage.__name__), list[str]()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    for number in range(COPIES // 3):
        copy = path.with_name(f"{number}.db")
        at = PAGE * chance.randrange(len(data) // PAGE)
        copy.write_bytes(data[:at] + damage(chance, data[at : at + PAGE]) + data[at + PAGE :])
        found, fault = outcome(copy)
        assert found in (None, expected)
        try:
            check_file(str(copy), repair=True)
        except CocaError as error:
            fault += str(error)
        faults += [fault]
    assert any(faults)
    assert not any("\n" in fault for fault in faults)


def test_a_file_of_the_former_format_is_made_new(path: Path) -> None:
    expected = opened(path)
    change(path, "PRAGMA user_version=3")
    with closing(sqlite3.connect(path)) as file:
        # Its derived tables had other columns.
        for table in ("c_recent", "c_blocks", "c_words"):
            file.execute(f"DROP TABLE {table}")
        file.execute("DROP INDEX c_deleted_by_seq")
        file.execute("CREATE TABLE c_blocks (block, kind, seq, data)")
        file.execute("CREATE TABLE c_words (block, term, data)")
    command = f"coca collection check --uri {path} --repair"
    with pytest.raises(SearchError, match=re.escape(command)):
        opened(path)
    with pytest.raises(SearchError, match="format 3"):
        check_file(str(path))
    assert check_file(str(path), repair=True).left == 0
    assert opened(path) == expected


REPAIR = """
import os, sys
from coca.search.sqlite.check import check_file
os.write(1, b"open")
check_file(sys.argv[1], repair=True)
"""


@pytest.mark.distributed
def test_a_repair_that_is_killed_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, damaged = tmp_path / "a.db", tmp_path / "b.db"
    with open_store(str(path), create=True) as store:
        store.create("c", embed_dim=DIM, fingerprint="one").upsert(
            Record(id=f"{n}", path=f"{n}", caption=f"word{n % 7}", vector=record("", 1).vector)
            for n in range(9_000)
        )
    expected, chance = opened(path), random.Random(0)
    change(path, "DELETE FROM c_blocks", "DELETE FROM c_words WHERE block = 1")
    for _ in range(int(os.environ.get("KILLS", "6"))):
        shutil.copyfile(path, damaged)
        process = subprocess.Popen([sys.executable, "-c", REPAIR, damaged], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.read(4) == b"open"
        time.sleep(chance.uniform(0, 4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found, fault = outcome(damaged)
        assert found == expected or "is damaged" in fault
        assert check_file(str(damaged), repair=True).left == 0
        assert opened(damaged) == expected
        for suffix in ("", "-wal", "-shm"):
            Path(f"{damaged}{suffix}").unlink(missing_ok=True)
