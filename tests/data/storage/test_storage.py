import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from coca.core.errors import DataError
from coca.data.storage import remote
from coca.data.storage import storage as storage_module
from coca.data.storage.storage import Storage, expand_braces
from range_server import Serve

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "RETRY_WAITS_S", (0.0, 0.0, 0.0))


@pytest.fixture
def local(tmp_path: Path) -> str:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    return str(tmp_path / "a.bin")


@pytest.fixture
def memory() -> str:
    fsspec.filesystem("memory").pipe_file("/storage/a.bin", CONTENT)
    return "memory://storage/a.bin"


@pytest.fixture
def http(tmp_path: Path, serve: Serve) -> str:
    pytest.importorskip("obstore")
    (tmp_path / "a.bin").write_bytes(CONTENT)
    return f"{serve(tmp_path).url}/a.bin"


@pytest.fixture(params=["local", "memory", "http"])
def place(request: pytest.FixtureRequest) -> str:
    path: str = request.getfixturevalue(request.param)
    return path


def test_ranges_sizes_and_whole_files_are_read_alike_everywhere(place: str) -> None:
    storage = Storage()
    assert storage.size(place) == len(CONTENT)
    assert storage.read(place, [(3, 9), (10_000, 10_240), (0, 1)]) == [
        CONTENT[3:9],
        CONTENT[10_000:10_240],
        CONTENT[:1],
    ]
    assert storage.read_all(place) == CONTENT


def test_a_stream_reads_and_seeks_alike_everywhere(place: str) -> None:
    with Storage().open(place) as stream:
        assert stream.read(7) == CONTENT[:7]
        assert stream.seek(-5, os.SEEK_END) == len(CONTENT) - 5
        assert stream.read() == CONTENT[-5:]
        assert stream.read(1) == b""
        stream.seek(2)
        stream.seek(3, os.SEEK_CUR)
        assert stream.read(2) == CONTENT[5:7]


def test_a_missing_file_is_told_alike_everywhere(place: str) -> None:
    absent = place.replace("a.bin", "b.bin")
    for ask in (
        lambda: Storage().size(absent),
        lambda: Storage().read(absent, [(0, 1)]),
        lambda: Storage().read_all(absent),
        lambda: Storage().open(absent),
    ):
        with pytest.raises(DataError, match=r"b\.bin is missing") as caught:
            ask()
        assert caught.value.reason == "missing"


def test_a_file_that_ends_too_early_is_told_everywhere(place: str) -> None:
    with pytest.raises(DataError, match=r"a\.bin"):
        Storage().read(place, [(len(CONTENT) - 3, len(CONTENT) + 4)])


def test_a_handle_survives_pickling_by_opening_anew(place: str) -> None:
    storage = Storage()
    storage.read(place, [(0, 1)])
    assert pickle.loads(pickle.dumps(storage)).read(place, [(1, 2)]) == [CONTENT[1:2]]


def test_a_forked_process_opens_remote_folders_anew(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def watch(url: str) -> remote.Folder:
        opened.append(url)
        return remote.open_folder(url)

    monkeypatch.setattr(storage_module, "open_folder", watch)
    storage = Storage()
    for process in (1, 1, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        assert storage.read(memory, [(0, 1)]) == [CONTENT[:1]]
    assert opened == ["memory://storage"] * 2


def test_threads_have_a_file_system_each_where_it_is_not_asynchronous(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[int, object] = {}
    kind = fsspec.get_filesystem_class("memory")
    cat = kind.cat_ranges

    def watch(files: object, *args: object, **options: object) -> list[bytes]:
        used[threading.get_ident()] = files
        return cat(files, *args, **options)

    monkeypatch.setattr(kind, "cat_ranges", watch)
    storage, both = Storage(), threading.Barrier(2, timeout=60)

    def read(_: int) -> bytes:
        both.wait()
        return storage.read(memory, [(0, 1)])[0]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read, range(2))) == [CONTENT[:1]] * 2
    first, second = used.values()
    assert first is not second


def test_broken_connections_and_server_errors_are_tried_again(tmp_path: Path, serve: Serve) -> None:
    pytest.importorskip("obstore")
    (tmp_path / "a.bin").write_bytes(CONTENT)
    server = serve(tmp_path, fail_every=5)
    storage = Storage()
    for start in range(0, 4_000, 100):
        part = storage.read(f"{server.url}/a.bin", [(start, start + 100)])
        assert part == [CONTENT[start : start + 100]]
    assert server.seen["failed"] >= 8


def test_a_store_that_never_answers_is_told_after_a_few_attempts(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def refuse(*args: object, **options: object) -> None:
        attempts.append(args)
        raise ConnectionError("the line is dead\nand more")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_ranges", refuse)
    with pytest.raises(DataError, match=r"a\.bin cannot be read: the line is dead$") as caught:
        Storage().read(memory, [(0, 1)])
    assert caught.value.reason == "unreachable"
    assert len(attempts) == 4


def test_an_unknown_scheme_is_told_in_a_sentence() -> None:
    with pytest.raises(DataError, match="cannot be opened: Protocol not known"):
        Storage().size("nonsense://a/b")


@pytest.mark.parametrize(
    "ask",
    [
        Storage.size,
        Storage.read_all,
        Storage.open,
        lambda storage, path: storage.read(path, [(0, 1)]),
    ],
)
@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_a_fifo_or_device_is_refused_at_once(
    tmp_path: Path, kind: str, ask: Callable[[Storage, str], object]
) -> None:
    path = tmp_path / "x.png"
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"x\.png cannot be read: it is a {kind}") as caught:
        ask(Storage(), str(path))
    assert caught.value.reason == "unreadable"


def test_a_file_above_the_limit_is_refused_everywhere(place: str) -> None:
    assert Storage().read_all(place, max_bytes=len(CONTENT)) == CONTENT
    with pytest.raises(DataError, match=r"10,240 bytes, and at most 10,239 are read") as caught:
        Storage().read_all(place, max_bytes=len(CONTENT) - 1)
    assert caught.value.reason == "too_large"


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no file"):
        Storage().read_all(f"{tmp_path}/a\0.png")


@pytest.mark.parametrize("url", ["http://[::1", "s3://", "http://", "abc", "://"])
def test_a_malformed_url_is_told(url: str) -> None:
    with pytest.raises(DataError):
        Storage().read_all(url)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        Storage().read_all(str(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a.tar", ["a.tar"]),
        ("s{08..11}.tar", ["s08.tar", "s09.tar", "s10.tar", "s11.tar"]),
        ("s{8..10}", ["s8", "s9", "s10"]),
        ("{x,y}/{0..1}", ["x/0", "x/1", "y/0", "y/1"]),
        ("odd{name}.tar", ["odd{name}.tar"]),
        ("open{0..1", ["open{0..1"]),
    ],
)
def test_braces_stand_for_several_names(pattern: str, paths: list[str]) -> None:
    assert expand_braces(pattern) == paths


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for name in ("b-1.tar", "b-0.tar", "c-0.tar", "b-0.tar.idx", "[odd].tar"):
        (tmp_path / name).touch()
        fsspec.filesystem("memory").pipe_file(f"/tars/{name}", b"")
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([""], ["[odd].tar", "b-0.tar", "b-1.tar", "c-0.tar"]),
        (["b-*.tar"], ["b-0.tar", "b-1.tar"]),
        (["c-*.tar", "b-{0..1}.tar"], ["c-0.tar", "b-0.tar", "b-1.tar"]),
        (["[odd].tar"], ["[odd].tar"]),
    ],
)
def test_patterns_name_files_in_order(tars: Path, patterns: list[str], names: list[str]) -> None:
    found = Storage().find([os.path.join(tars, p) for p in patterns], suffix=".tar")
    assert found == [str(tars / name) for name in names]


def test_a_relative_pattern_starts_at_the_working_folder(
    tars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tars)
    assert Storage().find(["c-*.tar"], suffix=".tar") == ["c-0.tar"]


def test_remote_patterns_name_files_in_order(tars: Path) -> None:
    found = Storage().find(["memory://tars/b-*.tar", "memory://tars/c-0.tar"], suffix=".tar")
    assert [path.rpartition("/")[2] for path in found] == ["b-0.tar", "b-1.tar", "c-0.tar"]


def test_an_object_store_lists_what_a_pattern_fits(
    tars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    # obstore's own local store stands for a bucket.
    monkeypatch.setattr(remote, "OBJECT_STORES", {"file"})
    found = Storage().find([f"file://{tars}/b-*.tar"], suffix=".tar")
    assert found == [f"file://{tars}/b-0.tar", f"file://{tars}/b-1.tar"]


def test_a_pattern_that_fits_nothing_is_an_error(tars: Path) -> None:
    with pytest.raises(DataError, match=r"no \.tar file is found at .*z-\*"):
        Storage().find([str(tars / "b-*.tar"), str(tars / "z-*.tar")], suffix=".tar")


def test_a_file_named_twice_is_an_error(tars: Path) -> None:
    with pytest.raises(DataError, match=r"b-0\.tar is named twice"):
        Storage().find([str(tars), str(tars / "b-0.tar")], suffix=".tar")
