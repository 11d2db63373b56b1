"""One decoder process, as the service sees it: start, send an image, read the answer, kill."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from coca.core.errors import CocaError, DataError
from coca.server.images.decoding.messages import BrokenMessageError, receive, send

_KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
_PIPE_BYTES = 1 << 20
"""Capacity of a pipe, where the system allows it; the default takes more switches of process."""
_START_S = 120.0
"""Maximum time until a new process is ready; its imports may wait for a busy machine."""


class WorkerDiedError(Exception):
    """The process ended before it answered."""


class WorkerProcess:
    """A running decoder process; one thread at a time may use it."""

    def __init__(self, *, max_pixels: int, timeout_s: float) -> None:
        """Start the process, without waiting until it is ready."""
        self._timeout_s = timeout_s
        self._ready = False
        # Transparent pixels that are turned upright exist four times, with 4 bytes each; Python and
        # its libraries take less than half a gigabyte.
        memory_bytes = (512 << 20) + 24 * max_pixels
        limits = (memory_bytes, int(timeout_s) + 1)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coca.server.images.decoding.worker", *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pipesize=_PIPE_BYTES,
            env=_environment(),
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(
        self,
        request: Mapping[str, Any],
        data: bytes,
        answer_size: Callable[[dict[str, Any]], int],
    ) -> tuple[dict[str, Any], bytearray]:
        """Send an encoded image, and return header and payload of the answer.

        Raises:
            DataError: The image cannot be decoded, or took longer than the limit.
            WorkerDiedError: The process ended, or answered nonsense; it does not run any more.
            CocaError: The process cannot start.
        """
        self._wait_until_ready()
        header = {**request, "bytes": len(data)}
        answer, payload, late = self._within(self._timeout_s, header, data, answer_size)
        if late:
            raise DataError(
                f"the image of {len(data):,} bytes took longer than {self._timeout_s:g} seconds "
                "to decode",
                reason="too_slow",
            )
        if answer is None:
            raise WorkerDiedError(self._end())
        if "error" in answer:
            raise DataError(str(answer["error"]), reason=str(answer["reason"]))
        return answer, payload

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        answer, _, _ = self._within(_START_S, None, b"", lambda header: 0)
        if answer is None:
            raise CocaError(f"the decoder process cannot start: it {self._end()}")
        self._ready = True

    def _within(
        self,
        limit_s: float,
        header: Mapping[str, Any] | None,
        data: bytes,
        answer_size: Callable[[dict[str, Any]], int],
    ) -> tuple[dict[str, Any] | None, bytearray, bool]:
        """Exchange messages; after the limit a timer kills the process, which ends the wait.

        Returns:
            Header and payload of the answer, None if there is none, and whether the timer expired.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        late = threading.Event()

        def expire() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit_s, expire)
        timer.daemon = True
        timer.start()
        try:
            if header is not None:
                send(stdin.fileno(), header, data)
            answer, payload = receive(stdout.fileno(), lambda found: _size(found, answer_size))
        except (BrokenMessageError, OSError):
            self.kill()
            return None, bytearray(), late.is_set()
        finally:
            timer.cancel()
        return answer, payload, False

    def _end(self) -> str:
        code = self._process.returncode or 0
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _size(header: dict[str, Any], answer_size: Callable[[dict[str, Any]], int]) -> int:
    return 0 if "error" in header or "ready" in header else answer_size(header)


def _environment() -> dict[str, str]:
    """Build the environment of the process, without keys and tokens of the service."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    paths = [path for path in sys.path if path]
    # Each thread and each arena would reserve address space.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return {**kept, **threads, "PYTHONPATH": os.pathsep.join(paths)}
