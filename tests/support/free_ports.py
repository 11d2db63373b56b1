"""Ports that a process started later can listen on."""

import random
import socket


def free_port() -> int:
    """A port that nobody uses now, and that the system gives to nobody by itself.

    One from `bind(("", 0))` would be among those that any connection of another test takes.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
