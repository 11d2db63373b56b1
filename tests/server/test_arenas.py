"""Memory that a real `coca serve` process keeps between requests."""

import platform
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server_process import ServerProcess

ARENA_BYTES = 64 << 20
"""Address space that glibc reserves for an arena of a thread, at a multiple of its size."""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has no such arenas"
)
def test_threads_share_two_arenas(process: ServerProcess) -> None:
    with ThreadPoolExecutor(20) as pool:
        bodies = [{"text": "a red car", "rerank": 6}] * 60
        answers = pool.map(lambda body: process.post("/v1/search", body), bodies)
        assert {answer.status for answer in answers} == {200}
    starts = 0
    for line in Path(f"/proc/{process.process.pid}/maps").read_text().splitlines():
        if (
            found := re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *$", line)
        ) is not None:
            start, end = (int(one, 16) for one in found.groups())
            starts += start % ARENA_BYTES == 0 and end - start <= ARENA_BYTES
    # One is the process's own, which grows from the end of its data.
    assert starts <= 1, starts
