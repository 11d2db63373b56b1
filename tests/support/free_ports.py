"""Ports that a process started later can listen on."""

import random
import socket

_GIVEN: set[int] = set()


def free_port() -> int:
    """A new port each time, that nobody uses and that the system gives to nobody by itself.

    One from `bind(("", 0))` would be among those that any connection of another test takes.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port
