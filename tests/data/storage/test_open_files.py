"""Files that threads share: right bytes while others are opened and closed, and no leak."""

import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.storage.open_files import MAX_OPEN_FILES
from coca.data.storage.storage import Storage

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


def test_two_threads_that_open_one_file_share_it(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, opening = threading.Barrier(2, timeout=240), os.open

    def together(path: str, flags: int, *options: int) -> int:
        descriptor = opening(path, flags, *options)
        both.wait()
        return descriptor

    monkeypatch.setattr(os, "open", together)
    storage = Storage()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: storage.read(files[7], [(0, 2)]), range(2)))
    assert results == [[b"\x07\x07"]] * 2
    assert len(descriptors(tmp_path)) == 1


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


def test_a_long_range_is_read_by_several_calls(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Linux gives 2 GiB a call at most; here it is 5 bytes.
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 5), at))
    assert Storage().read(files[4], [(0, SIZE)]) == [b"\x04" * SIZE]


@pytest.mark.parametrize("ranges", [[(0, SIZE + 1)], [(0, 1 << 62)], [(0, 1 << 70)], [(-1, 3)]])
def test_a_range_that_the_file_does_not_hold_is_refused_before_memory_is_taken(
    files: list[str], ranges: Sequence[tuple[int, int]]
) -> None:
    with pytest.raises(DataError, match=r"0\.bin is truncated: bytes .* and it has 64") as caught:
        Storage().read(files[0], ranges)
    assert caught.value.reason == "truncated"
