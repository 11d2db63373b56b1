"""An interrupted test session leaves no process behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
SESSION = """
import multiprocessing, subprocess, time
from end_with_session import watch_this_process
watcher = watch_this_process()
subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(600,)).start()
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="sessions are watched on Linux only")
def test_no_process_of_a_killed_session_lives_on() -> None:
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
    )
    assert session.stdout is not None
    assert session.stdout.readline() == b"started\n"
    session.kill()
    # Each of its processes has the pipe open until it ends.
    session.communicate(timeout=60)
