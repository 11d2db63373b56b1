"""Places of tenants in the pool of threads, and requests that nobody waits for any more."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter
from starlette.exceptions import HTTPException
from starlette.types import Receive

from coca.core.cancellation import cancelled_by
from coca.server.errors import ServiceError
from coca.server.keys import KeyConfig
from coca.server.turns import of_key

TENANT_THREADS = 20
"""Maximum number of threads of one key; further requests of it wait, and those of others do not."""
DOWNLOADS = 4
"""Maximum number of archives that a key reads at a time: their time depends on the client."""
_RETRY_STOPPED_S = 10
"""Advised wait of a client whose request was ended because the service stops, in seconds."""
_SHARE = 4
"""A key may have a quarter of all connections in requests that wait or are worked on."""
_THREADS, _MAX_THREADS = 40, 200


class Places:
    """Threads that answer requests: no key takes all of them, and no request for ever."""

    def __init__(self, *, timeout_s: float) -> None:
        """Limit the time of a request in a thread, in seconds."""
        self._timeout_s = timeout_s
        self._max_requests = TENANT_THREADS
        self._ends_s = math.inf
        self._of_key: dict[str, CapacityLimiter] = {}
        self._downloads = Counter[str]()

    def open(self, keys: Sequence[KeyConfig], *, max_connections: int) -> None:
        """Set the size of the pool of the running event loop, and the requests of a key."""
        self._max_requests = max(TENANT_THREADS, max_connections // _SHARE)
        size = min(_MAX_THREADS, TENANT_THREADS * len(keys))
        current_default_thread_limiter().total_tokens = max(_THREADS, size)

    def end(self, *, within_s: float) -> None:
        """End the work of all requests after a while, since the service stops."""
        self._ends_s = time.monotonic() + within_s

    @asynccontextmanager
    async def place(
        self, key: KeyConfig | None, receive: Receive | None = None
    ) -> AsyncIterator[Callable[[], None]]:
        """Wait for a place, and end the work of this context after the limit of time.

        Args:
            key: Key of the request; a request without one needs no place. A key with too many
                requests gets status 429.
            receive: Receives from a client whose whole body was read: the work also ends where the
                client leaves.
        """
        deadline_s = time.monotonic() + self._timeout_s
        leaves = None if receive is None else asyncio.create_task(_leaving(receive))

        def check() -> None:
            if leaves is not None and leaves.done():
                raise ServiceError("the client has left", status=499, code="client_left")
            now_s = time.monotonic()
            if now_s > self._ends_s:
                raise ServiceError(
                    "the service stops: repeat the request when it runs again",
                    status=503,
                    code="stopping",
                    retry_after_s=_RETRY_STOPPED_S,
                )
            if now_s > deadline_s:
                raise ServiceError(
                    f"the request took longer than {self._timeout_s:g} seconds: ask for less, or "
                    "repeat it when the service is less busy",
                    status=503,
                    code="timeout",
                    retry_after_s=1,
                )

        try:
            name = "" if key is None else key.name
            async with self._limiter(name) if name else nullcontext():
                check()
                with cancelled_by(check), of_key(name):
                    yield check
        finally:
            if leaves is not None:
                leaves.cancel()

    @contextmanager
    def download(self, key: KeyConfig | None) -> Iterator[None]:
        """Count a download of a key; one too many gets status 429."""
        name = "" if key is None else key.name
        if self._downloads[name] >= DOWNLOADS:
            raise ServiceError(
                f"{DOWNLOADS} archives are read at a time: wait for one of them to end",
                status=429,
                code="too_many_requests",
                retry_after_s=10,
            )
        self._downloads[name] += 1
        try:
            yield
        finally:
            self._downloads[name] -= 1

    def _limiter(self, name: str) -> CapacityLimiter:
        limiter = self._of_key.setdefault(name, CapacityLimiter(TENANT_THREADS))
        now = limiter.statistics()
        if now.borrowed_tokens + now.tasks_waiting >= self._max_requests:
            raise ServiceError(
                f"the key {name!r} has {self._max_requests} requests in progress: wait for an "
                "answer before the next one",
                status=429,
                code="too_many_requests",
                retry_after_s=1,
            )
        return limiter


async def _leaving(receive: Receive) -> None:
    # The rest of a body that no route reads may be too slow or too large.
    with suppress(HTTPException):
        while (await receive())["type"] != "http.disconnect":
            pass
