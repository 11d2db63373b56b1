"""Ctrl-C and a polite kill as a request that a loop may finish its step before it obeys."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether someone asked to stop."""

    signal: int = 0
    """The number of the signal that came; 0 before one does."""

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal != 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM within the block into a request; the second aborts.

    Handlers of before are put back at the end. Outside the main thread, where Python allows no
    handlers, nothing changes and no request ever comes.

    Raises:
        KeyboardInterrupt: A second signal came.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    came = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True
        # Another rank's signal may have been heard of before.
        stop.signal = stop.signal or number

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # None: the handler was not set from Python and cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
