"""Kill every process that a test session started once the session has ended, however it ended.

A process belongs to a session if its environment does, which servers, fork servers and their
children inherit. An interrupted or killed session cleans up nothing by itself (Linux).

python end_with_session.py PID VARIABLE=VALUE   # the session, and what its processes inherit
"""

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

VARIABLE = "COCA_TEST_SESSION"


def watch_this_process() -> subprocess.Popen[bytes] | None:
    """Start the process that outlives this one, before any other process is started."""
    os.environ[VARIABLE] = uuid.uuid4().hex
    if not hasattr(os, "pidfd_open"):
        return None
    mark = f"{VARIABLE}={os.environ[VARIABLE]}"
    # Ctrl-C and the signals of a terminal reach every process of the session's group.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), mark],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _kill_marked(mark: bytes) -> bool:
    """Kill the processes with a mark in their environment; return whether there were any."""
    killed = False
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(folder.name) != os.getpid() and mark in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
                killed = True
    return killed


def _main(session: int, mark: str) -> None:
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(session)], [], [])
    # A killed process may have started another one meanwhile.
    while _kill_marked(mark.encode()):
        time.sleep(0.05)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
