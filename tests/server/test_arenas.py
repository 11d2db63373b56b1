"""Memory that a real `coca serve` process keeps between requests."""

import itertools
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
    maps = Path(f"/proc/{process.process.pid}/maps").read_text()
    mappings = [
        (int(start, 16), int(end, 16), rights)
        for start, end, rights in re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) (\S+) 00000000 00:00 0 *$", maps, re.MULTILINE
        )
    ]
    # What an arena has not used yet is reserved behind it. A large tensor may start at such a
    # multiple too, with nothing reserved.
    arenas = sum(
        rights == "rw-p"
        and start % ARENA_BYTES == 0
        and reserved == "---p"
        and (after, until) == (end, start + ARENA_BYTES)
        for (start, end, rights), (after, until, reserved) in itertools.pairwise(mappings)
    )
    # One is the process's own, which grows from the end of its data.
    assert arenas <= 1, arenas
