"""Graceful stop on SIGINT and SIGTERM: a loop finishes its step first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """State of a requested stop."""

    signal: int = 0
    """Number of the received signal; 0 before."""

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal != 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Convert the first SIGINT or SIGTERM within the block to a stop request; the second aborts.

    Previous handlers are restored at the end. Outside the main thread, where Python allows no
    handlers, this has no effect.

    Raises:
        KeyboardInterrupt: A second signal was received.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    received = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True
        # Another rank's signal may have been received before.
        stop.signal = stop.signal or number

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # None: the handler was not set from Python and cannot be restored by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
