"""The copy of a collection on disk, which a search reads in place of Milvus Lite."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from coca.core.errors import SearchError
from coca.search.milvus.catalog import point_alias
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.engine import SearchEngine
from coca.search.query.saved_copy import SavedCopy, find_copy
from coca.search.records import Hit, Origin, Record

FINGERPRINT, DIM = "model-one", 16


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "pictures.db")


def opened(uri: str) -> Collection:
    return Collection.open(uri, embed_dim=DIM, fingerprint=FINGERPRINT, create=True)


@pytest.fixture
def filled(uri: str, embedder: Any, make_record: Callable[..., Record]) -> str:
    """The URI of forty records with captions of both kinds, and of their copy."""
    with opened(uri) as collection:
        collection.upsert(
            make_record(
                f"{n:02}",
                caption=f"image {n % 7} of {n}" if n % 5 else "",
                text_vector=embedder.direction(b"%d" % n) if n % 5 else None,
                origin=Origin(captioned=n % 3 == 0),
                tags=("even",) if n % 2 == 0 else (),
                album=f"album {n % 4}",
                metadata={"n": n, "nested": {"list": [n, "\u2028\n"]}},
            )
            for n in range(40)
        )
        CollectionCopy(collection).save()
    return uri


def found(uri: str) -> SavedCopy:
    copy = find_copy(uri, "pictures")
    assert copy is not None
    return copy


def not_opened() -> NoReturn:
    raise AssertionError("Milvus is not needed")


def without_scores(hits: list[Hit]) -> list[Any]:
    return [(hit.id, hit.path, hit.caption, hit.metadata, hit.tags, hit.album) for hit in hits]


@pytest.mark.parametrize("asked", [{}, {"hybrid": False}, {"on": "text"}, {"group_by": "album"}])
def test_a_saved_copy_answers_as_milvus_and_without_it(
    filled: str, embedder: Any, asked: Any
) -> None:
    copy = SearchEngine(embedder, CollectionCopy(not_opened, saved=found(filled)))
    with opened(filled) as collection:
        engine = SearchEngine(embedder, collection)
        for text in ("image 3", "17 of", "a zebra"):
            hits, expected = (one.search(text, k=12, **asked) for one in (copy, engine))
            assert without_scores(hits) == without_scores(expected)
            for hit, other in zip(hits, expected, strict=True):
                assert hit.score == pytest.approx(other.score, abs=1e-6)
                assert hit.fused_score == pytest.approx(other.fused_score, abs=1e-6)
                assert hit.caption_source == other.caption_source
    assert copy.collection.info.count == 40


def test_a_filter_and_whole_records_open_the_collection(filled: str, embedder: Any) -> None:
    with CollectionCopy(lambda: opened(filled), saved=found(filled)) as copy:
        engine = SearchEngine(embedder, copy)
        hits = engine.search("image 3", k=40, filter='metadata["n"] < 9')
        assert {hit.metadata["n"] for hit in hits} == set(range(9))
        assert len(engine.similar("03", k=5)) == 5


def test_a_search_needs_no_lock_of_the_folder(filled: str, embedder: Any) -> None:
    program = "from coca.search.milvus.collection import Collection\n"
    program += f"Collection.open({filled!r}); print('open', flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(SearchError, match="in use"):
            opened(filled)
        copy = CollectionCopy(not_opened, saved=found(filled))
        assert len(SearchEngine(embedder, copy).search("image 3")) == 10
        other.communicate("\n")


def run(program: str, uri: str) -> None:
    """Run a program in a process of its own, which may kill itself."""
    start = f"""
import os, signal, numpy as np
from pymilvus import MilvusClient
from coca.search.milvus.catalog import point_alias
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.records import Record
uri = {uri!r}
new = Record(id="new", path="new.jpg", vector=np.eye({DIM}, dtype=np.float32)[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", start + program], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -9), done.stderr


def ids_without_milvus(uri: str, embedder: Any) -> set[str]:
    """Search all records by the copy on disk alone."""
    copy = CollectionCopy(not_opened, saved=found(uri))
    return {hit.id for hit in SearchEngine(embedder, copy).search("image", k=100, match=False)}


ALL = {f"{n:02}" for n in range(40)}


@pytest.mark.parametrize(
    ("program", "ids"),
    [
        ("with Collection.open(uri) as c: c.delete(['03', 'absent'])", ALL - {"03"}),
        ("c = Collection.open(uri); c.delete(['03']); c.upsert([new])", ALL - {"03"} | {"new"}),
        (
            """
for id in ("03", "04"):
    with Collection.open(uri) as c, Collection.open(uri) as d:
        c.delete([id])
        d.upsert([new])
        c.keep_calibration("{}")
""",
            ALL - {"03", "04"} | {"new"},
        ),
    ],
    ids=["deleted", "not closed", "several"],
)
def test_what_other_processes_wrote_is_found(
    filled: str, embedder: Any, program: str, ids: set[str]
) -> None:
    run(program, filled)
    with CollectionCopy(lambda: opened(filled), saved=find_copy(filled, "pictures")) as copy:
        hits = SearchEngine(embedder, copy).search("image", k=100, match=False)
    assert {hit.id for hit in hits} == ids
    assert ids_without_milvus(filled, embedder) == ids


@pytest.mark.parametrize(
    "program",
    [
        """
with Collection.open(uri) as collection:
    collection.upsert([new])
    os.kill(os.getpid(), signal.SIGKILL)
""",
        """
with Collection.open(uri) as collection:
    collection.upsert([new])
    collection.flush()
    os.kill(os.getpid(), signal.SIGKILL)
""",
        """
client = MilvusClient(uri)
(name,) = client.list_collections()
client.load_collection(name)
row = client.get(name, ids=["03"])[0]
client.upsert(name, [row | {"id": "new"}])
client.close()
""",
    ],
    ids=["killed", "killed after a flush", "another client"],
)
def test_after_writes_that_nobody_noted_everything_is_read_again(
    filled: str, embedder: Any, program: str
) -> None:
    run(program, filled)
    assert find_copy(filled, "pictures") is None
    with opened(filled) as collection:
        copy = SearchEngine(embedder, collection)
        assert {hit.id for hit in copy.search("image", k=100, match=False)} == ALL | {"new"}
    assert ids_without_milvus(filled, embedder) == ALL | {"new"}


def test_a_copy_is_not_saved_while_another_client_writes(filled: str) -> None:
    run(
        """
from coca.search.query.collection_copy import CollectionCopy
collection = Collection.open(uri)
copy = CollectionCopy(collection)
MilvusClient(uri).delete(collection.own_name, ids=["03"])
collection.upsert([new])
copy.save()
collection.close()
""",
        filled,
    )
    assert find_copy(filled, "pictures") is None


def test_an_open_copy_follows_the_writes_of_other_processes(filled: str, embedder: Any) -> None:
    with CollectionCopy(lambda: opened(filled), saved=found(filled)) as copy:
        engine = SearchEngine(embedder, copy)
        assert len(engine.search("image", k=100, match=False)) == 40
        run("with Collection.open(uri) as c: c.delete(['03'])", filled)
        assert {hit.id for hit in engine.search("image", k=100, match=False)} == ALL - {"03"}


def test_the_calibration_is_that_of_the_collection(filled: str, embedder: Any) -> None:
    with opened(filled) as collection:
        collection.keep_calibration('{"limit": 1}')
    assert found(filled).info.calibration == '{"limit": 1}'
    assert ids_without_milvus(filled, embedder) == ALL


def test_a_name_that_was_switched_finds_the_copy_of_the_other_collection(filled: str) -> None:
    with Collection.open(filled, "others", embed_dim=DIM, fingerprint="b", create=True) as others:
        CollectionCopy(others)
        connection = Connection(filled, create=False)
        point_alias(connection, "pictures", others.own_name)
        connection.close()
    assert found(filled).info.fingerprint == "b"


def test_a_moved_or_copied_folder_takes_its_copy_along(filled: str, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "copied.db")
    shutil.move(filled, tmp_path / "moved.db")
    for name in ("copied.db", "moved.db"):
        copy = found(str(tmp_path / name))
        assert copy.info.uri == str(tmp_path / name)
        assert len(copy.rows.ids) == 40


def test_a_damaged_copy_or_one_of_another_version_is_not_found(filled: str) -> None:
    (folder,) = Path(filled).glob("collections/*/copy")
    about = (folder / "copy.json").read_text()
    (folder / "copy.json").write_text(json.dumps(json.loads(about) | {"version": 0}))
    assert find_copy(filled, "pictures") is None
    (folder / "copy.json").write_text(about[:-9])
    assert find_copy(filled, "pictures") is None
    (folder / "copy.json").write_text(about)
    assert find_copy(filled, "pictures") is not None
    for name in ("hits.jsonl", "ids.txt", "arrays.npz"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(b"")
        assert find_copy(filled, "pictures") is None, name
        (folder / name).write_bytes(whole)
    shutil.rmtree(folder / "images")
    assert find_copy(filled, "pictures") is None


def test_a_saved_copy_follows_the_writes(
    filled: str, embedder: Any, make_record: Callable[..., Record]
) -> None:
    saved = found(filled)
    with opened(filled) as collection:
        copy = CollectionCopy(collection, saved=saved)
        collection.upsert([make_record("new", caption="a zebra"), make_record("03", caption="")])
        collection.delete(["04"])
        engine = SearchEngine(embedder, copy)
        assert [hit.id for hit in engine.search("zebra", k=50) if hit.bm25] == ["new"]
        assert len(engine.search("image", k=50)) == 40
        copy.save()
        expected = SearchEngine(embedder, collection).search("image 3 zebra", k=50)
    again = SearchEngine(embedder, CollectionCopy(not_opened, saved=found(filled)))
    hits = again.search("image 3 zebra", k=50)
    assert without_scores(hits) == without_scores(expected)


def test_a_server_has_no_copy_on_disk() -> None:
    assert find_copy("http://localhost:19530", "pictures") is None
    assert find_copy("nowhere.db", "pictures") is None
