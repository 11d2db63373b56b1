import os
import subprocess
import sys
from pathlib import Path

import pytest

from coca.core.errors import SearchError
from coca.search.milvus import lite
from coca.search.milvus.connection import Connection
from coca.search.milvus.lite import Lease, address_of, is_lite


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("pictures.db", True),
        ("/data/a b/pictures.db", True),
        ("http://localhost:19530", False),
        ("unix:/run/milvus.sock", False),
    ],
)
def test_a_path_is_distinguished_from_a_server(uri: str, expected: bool) -> None:
    assert is_lite(uri) is expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("localhost:19530", "http://localhost:19530"),
        ("10.0.0.7:19530", "http://10.0.0.7:19530"),
        ("[::1]:19530", "http://[::1]:19530"),
        (" http://host:19530 ", "http://host:19530"),
        ("file:/data/pictures.db", "/data/pictures.db"),
        ("file:///data/pictures.db", "/data/pictures.db"),
        ("file://localhost/data/pictures.db", "/data/pictures.db"),
        ("file:pictures.db", "pictures.db"),
        ("~/pictures.db", os.path.expanduser("~/pictures.db")),
        ("a:1.db", "a:1.db"),
        ("unix:/run/milvus.sock", "unix:/run/milvus.sock"),
    ],
)
def test_an_address_may_be_written_as_people_do(written: str, meant: str) -> None:
    assert address_of(written) == meant


@pytest.mark.parametrize(
    ("address", "create", "fault"),
    [
        ("localhost", False, r"it must be .*\.db, or .*http://localhost:19530"),
        (" ", False, r"it must be .*\.db, or .*http://localhost:19530"),
        ("absent.db", False, r"there is no collection at .*`coca index FOLDER`"),
        ("pictures", True, r"is not the address of a collection; it must be .* \.db"),
        ("file.db", False, "Milvus Lite 2 wrote it"),
        ("file.db/pictures.db", True, "cannot be made: Not a directory"),
        # A folder at the path of the lock: this error occurs for root as well.
        ("locked.db", False, "cannot be written: Is a directory"),
    ],
)
def test_an_address_that_cannot_be_opened_is_reported_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, create: bool, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.db").touch()
    Path("locked.db", "LOCK").mkdir(parents=True)
    with pytest.raises(SearchError, match=fault):
        Lease.take(address_of(address), create=create)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.db", "locked.db"]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    lease = Lease.take(str(tmp_path / "a" / "b" / "pictures.db"), create=True)
    assert lease.path.is_dir()
    lease.release()


def test_the_process_that_holds_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures.db"
    folder.mkdir()
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "LOCK")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(SearchError, match=r"another process .*has it open") as caught:
            Lease.take(str(folder), create=False)
        if sys.platform == "linux":
            assert f"(pid {holder.pid})" in str(caught.value)
        # As when another process locks the folder between the check and the opening.
        with monkeypatch.context() as patch:
            patch.setattr(lite, "check_free", lambda path: None)
            with pytest.raises(SearchError, match=r"another process .*has it open"):
                Connection(str(folder), create=False)
    Lease.take(str(folder), create=False).release()


def test_one_process_shares_one_hold_under_any_spelling(tmp_path: Path) -> None:
    folder = tmp_path / "pictures.db"
    (tmp_path / "link.db").symlink_to(folder)
    first = Lease.take(str(folder), create=True)
    second = Lease.take(str(tmp_path / "link.db"), create=False)
    third = Lease.take(os.path.join(str(tmp_path), ".", "pictures.db"), create=False)
    assert first is second is third
    for _ in range(3):
        first.release()
    assert Lease.take(str(folder), create=False) is not first


FORKED = """
import os, sys
import milvus_lite.server_manager
from coca.search.milvus.lite import Lease
lease = Lease.take(sys.argv[1], create=True)
if os.fork() == 0:
    sys.exit(0)
os.wait()
print(*sorted(path.name for path in lease.path.iterdir()))
"""


def test_a_forked_process_that_ends_leaves_the_folder_to_its_parent(tmp_path: Path) -> None:
    uri = tmp_path / "pictures.db"
    command = [sys.executable, "-c", FORKED, str(uri)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "opened" in done.stdout.split()
    assert not (uri / "opened").exists()
