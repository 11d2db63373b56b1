"""Files that threads share: right bytes while others are opened and closed, and no leak."""

import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import obstore
import pytest

from coca.core.errors import DataError
from coca.data.storage import storage as storage_module
from coca.data.storage.storage import MAX_OPEN_FILES, Storage, expand_braces
from range_server import Serve

SIZE = 64


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """More files than are kept open, each filled with its own number."""
    paths = []
    for number in range(MAX_OPEN_FILES + 36):
        paths.append(str(tmp_path / f"{number}.bin"))
        Path(paths[-1]).write_bytes(bytes([number]) * SIZE)
    return paths


def descriptors(folder: Path) -> list[str]:
    """The files below a folder that this process has open."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("only Linux says which files a process has open")
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if os.path.exists(link)]
    return [target for target in targets if target.startswith(str(folder))]


def test_a_file_in_use_stays_open_while_others_push_it_out(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, pushed_out = threading.Event(), threading.Event()
    pread = os.pread

    def slow(descriptor: int, length: int, offset: int) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            assert pushed_out.wait(240)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", slow)
    storage = Storage()
    with ThreadPoolExecutor(1) as pool:
        slowly = pool.submit(storage.read, files[0], [(0, SIZE)])
        assert reading.wait(240)
        for path in files[1:]:
            storage.read(path, [(0, 1)])
        # A number that was closed too early would be given to this file.
        with open(files[1], "rb"):
            pushed_out.set()
            assert slowly.result(60) == [bytes([0]) * SIZE]
    assert files[0] not in descriptors(tmp_path)


@pytest.mark.parametrize("threads", [2, 16])
def test_many_threads_read_right_bytes_and_leave_few_files_open(
    files: list[str], tmp_path: Path, threads: int
) -> None:
    storage = Storage()

    def read(storage: Storage, seed: int) -> int:
        choose, wrong = random.Random(seed), 0
        for _ in range(200):
            number = choose.randrange(len(files))
            wrong += storage.read(files[number], [(1, 9)]) != [bytes([number]) * 8]
        return wrong

    with ThreadPoolExecutor(threads) as pool:
        assert sum(pool.map(read, [storage] * threads, range(threads))) == 0
    assert len(descriptors(tmp_path)) == MAX_OPEN_FILES
    del storage
    assert descriptors(tmp_path) == []


def test_a_forked_process_does_not_wait_for_a_lock_of_its_parent(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    storage.read(files[3], [(0, 1)])
    with storage._open_files._lock:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert storage.read(files[3], [(0, 1)]) == [b"\x03"]


@pytest.mark.parametrize("ranges", [[(0, SIZE + 1)], [(0, 1 << 62)], [(0, 1 << 70)], [(-1, 3)]])
def test_a_range_that_the_file_does_not_hold_is_refused_before_memory_is_taken(
    files: list[str], ranges: Sequence[tuple[int, int]]
) -> None:
    with pytest.raises(DataError, match=r"0\.bin is truncated: bytes .* and it has 64") as caught:
        Storage().read(files[0], ranges)
    assert caught.value.reason == "truncated"


CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "RETRY_WAITS_S", (0.0, 0.0, 0.0))


@pytest.fixture
def local(tmp_path: Path) -> str:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    return str(tmp_path / "a.bin")


@pytest.fixture
def file(local: str) -> str:
    return f"file://{local}"


@pytest.fixture
def http(tmp_path: Path, serve: Serve) -> str:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    return f"{serve(tmp_path).url}/a.bin"


@pytest.fixture(params=["local", "file", "http"])
def url(request: pytest.FixtureRequest) -> str:
    path: str = request.getfixturevalue(request.param)
    return path


def test_ranges_sizes_and_whole_files_are_read_alike_everywhere(url: str) -> None:
    storage = Storage()
    assert storage.size(url) == len(CONTENT)
    assert storage.read(url, [(3, 9), (10_000, 10_240), (0, 1)]) == [
        CONTENT[3:9],
        CONTENT[10_000:10_240],
        CONTENT[:1],
    ]
    assert storage.read_all(url) == CONTENT


def test_a_stream_reads_and_seeks_alike_everywhere(url: str) -> None:
    with Storage().open(url) as stream:
        assert stream.read(7) == CONTENT[:7]
        assert stream.seek(-5, os.SEEK_END) == len(CONTENT) - 5
        assert stream.read() == CONTENT[-5:]
        assert stream.read(1) == b""
        stream.seek(2)
        stream.seek(3, os.SEEK_CUR)
        assert stream.read(2) == CONTENT[5:7]


def test_a_missing_file_is_the_same_error_everywhere(url: str) -> None:
    absent = url.replace("a.bin", "b.bin")
    for ask in (
        lambda: Storage().size(absent),
        lambda: Storage().read(absent, [(0, 1)]),
        lambda: Storage().read_all(absent),
        lambda: Storage().open(absent),
    ):
        with pytest.raises(DataError, match=r"b\.bin is missing") as caught:
            ask()
        assert caught.value.reason == "missing"


def test_a_file_that_ends_too_early_is_an_error_everywhere(url: str) -> None:
    with pytest.raises(DataError, match=r"a\.bin"):
        Storage().read(url, [(len(CONTENT) - 3, len(CONTENT) + 4)])


def test_a_fork_of_a_process_that_read_remote_files_is_an_error(
    file: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    storage.read(file, [(0, 1)])
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    for reader in (storage, Storage()):
        with pytest.raises(DataError, match="in a fork of a process that has read remote files"):
            reader.read(file, [(0, 1)])
        assert reader.read(local, [(0, 1)]) == [CONTENT[:1]]


@pytest.mark.parametrize("name", ["100%.bin", "a%20b.bin", "c d.bin", "[o]#é.bin", "a::b.bin"])
def test_special_characters_of_names_are_read_in_files_and_percent_encoded_on_the_web(
    tmp_path: Path, serve: Serve, name: str
) -> None:
    folder = tmp_path / "deep % folder"
    folder.mkdir()
    (folder / name).write_bytes(CONTENT)
    for url in (
        f"file://{folder}/{name}",
        f"{serve(tmp_path).url}{quote(f'/{folder.name}/{name}')}",
    ):
        assert Storage().read_all(url) == CONTENT
    (found,) = Storage().find([f"file://{folder}/*.bin"], suffix=".bin")
    assert Storage().read_all(found) == CONTENT


def test_a_web_address_with_a_query_is_read_by_get_alone(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    server = serve(tmp_path)
    url = f"{server.url}/a.bin?signature=a/b%2Fc&expires=1"
    assert Storage().read_all(url) == CONTENT
    assert Storage().find([url], suffix=".bin") == [url]
    assert server.targets == {"GET /a.bin?signature=a/b%2Fc&expires=1"}


def test_broken_connections_and_server_errors_are_tried_again(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    server = serve(tmp_path, fail_every=5)
    storage = Storage()
    for start in range(0, 4_000, 100):
        part = storage.read(f"{server.url}/a.bin", [(start, start + 100)])
        assert part == [CONTENT[start : start + 100]]
    assert server.seen["failed"] >= 8


def test_a_store_that_never_answers_is_reported_after_a_few_attempts(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def refuse(*args: object, **options: object) -> None:
        attempts.append(args)
        raise ConnectionError("the line is dead\nand more")

    monkeypatch.setattr(obstore, "get_ranges", refuse)
    with pytest.raises(DataError, match=r"a\.bin cannot be read: the line is dead$") as caught:
        Storage().read(file, [(0, 1)])
    assert caught.value.reason == "unreachable"
    assert len(attempts) == 4


def test_an_unknown_scheme_is_an_error_that_lists_the_known_schemes() -> None:
    with pytest.raises(DataError, match=r"scheme must be one of .*, s3, s3a, got 'nonsense'"):
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


def test_a_file_above_the_limit_is_refused_everywhere(url: str) -> None:
    assert Storage().read_all(url, max_bytes=len(CONTENT)) == CONTENT
    with pytest.raises(DataError, match=r"10,240 bytes, and at most 10,239 are read") as caught:
        Storage().read_all(url, max_bytes=len(CONTENT) - 1)
    assert caught.value.reason == "too_large"


def test_a_name_that_no_file_can_have_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no file"):
        Storage().read_all(f"{tmp_path}/a\0.png")


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://[::1/a", "s3://", "s3://a", "http://", "file://a/b", "abc", "://"],
)
def test_a_malformed_url_is_reported(url: str) -> None:
    with pytest.raises(DataError):
        Storage().read_all(url)


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
def test_braces_expand_to_several_names(pattern: str, paths: list[str]) -> None:
    assert expand_braces(pattern) == paths


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for name in ("b-1.tar", "b-0.tar", "c-0.tar", "b-0.tar.idx", "[odd].tar"):
        (tmp_path / name).touch()
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


def test_remote_patterns_name_files_in_order(tars: Path) -> None:
    # A folder of files replaces a bucket.
    found = Storage().find([f"file://{tars}/b-*.tar", f"file://{tars}/c-0.tar"], suffix=".tar")
    assert found == [f"file://{tars}/{name}" for name in ("b-0.tar", "b-1.tar", "c-0.tar")]


def test_a_pattern_that_fits_nothing_is_an_error(tars: Path) -> None:
    with pytest.raises(DataError, match=r"no \.tar file is found at .*z-\*"):
        Storage().find([str(tars / "b-*.tar"), str(tars / "z-*.tar")], suffix=".tar")


def test_a_file_named_twice_is_an_error(tars: Path) -> None:
    for again in ("b-0.tar", f"../{tars.name}/b-0.tar"):
        patterns = [str(tars), str(tars / again)]
        with pytest.raises(DataError, match=r"b-0\.tar is named twice"):
            Storage().find(patterns, suffix=".tar")
        found = Storage().find(patterns, suffix=".tar", allow_overlap=True)
        assert found == Storage().find([str(tars)], suffix=".tar")


def test_an_s3_server_reads_fails_and_refuses_in_clear_words(
    tmp_path: Path, serve: Serve, s3_client: Callable[[str], None]
) -> None:
    """Keys are below the bucket; credentials that expire are not tried again."""
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a.tar").write_bytes(bytes(range(100)))
    server = serve(tmp_path, fail_every=3, etags=True)
    s3_client(server.url)
    storage, url = Storage(), "s3://bucket/a.tar"
    for start in range(6):
        assert storage.read(url, [(start, start + 2)]) == [bytes([start, start + 1])]
    assert server.seen["failed"]
    (tmp_path / "bucket" / "a.tar").unlink()
    with pytest.raises(DataError, match=r"s3://bucket/a\.tar is missing") as caught:
        storage.read(url, [(0, 2)])
    assert caught.value.reason == "missing"
    server.refuses = "ExpiredToken"
    with pytest.raises(DataError, match=r"the server refuses access \(ExpiredToken\)") as caught:
        storage.read(url, [(0, 2)])
    assert caught.value.reason == "refused"
    assert server.seen["refused"] == 1
