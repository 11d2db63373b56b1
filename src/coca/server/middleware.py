"""ASGI middleware: limits of bodies, hosts and origins; headers; metrics for Prometheus."""

import asyncio
import ipaddress
import re
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coca.server.errors import ServiceError, error_body, error_response

# Limits of bodies, hosts and origins of requests; headers of responses.

MAX_VALUES, MAX_KEYS = 500_000, 50_000
"""Maximum number of values and of keys in a JSON body: parsing them takes 30 ms, in which no other
request is answered. Commas and colons in texts count, too."""
_HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?", re.ASCII)
"""Name or address, and port; other forms, such as `localhost:80@name`, are of attackers."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_COUNTED_BYTES = 1 << 20
_SMALL_BYTES = 64 << 10


class BodyLimit:
    """Rejects bodies that are too large (413), too slow (408), of two lengths (400) or too many."""

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_total_bytes: int, timeout_s: float
    ) -> None:
        """Set the limits."""
        self._app = app
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._total_bytes = 0
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with a bounded body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            # A proxy that reads the other header would take the rest of the body for a request.
            two = "a request must not have both Content-Length and Transfer-Encoding"
            close = {"Connection": "close"}
            response = JSONResponse(error_body(two, 400, "two_lengths"), 400, close)
            await response(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._max_bytes:
                body = error_body(too_large(self._max_bytes), 413, "too_large")
                await JSONResponse(body, 413)(scope, receive, send)
                return
        started = asyncio.get_running_loop().time()
        received, complete = 0, False

        async def in_time() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            # A minimum rate: a client could otherwise send a byte now and then, without end.
            deadline = started + self._timeout_s * (1 + received / 1e6)
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request body came too slowly") from None
            before = _counted(received)
            received += len(message.get("body", b""))
            self._total_bytes += _counted(received) - before
            if self._total_bytes > self._max_total_bytes:
                raise HTTPException(
                    503,
                    "the service is overloaded: too many large bodies are in progress",
                    {"Retry-After": "1"},
                )
            complete = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, bounded(in_time, self._max_bytes), send)
        finally:
            self._total_bytes -= _counted(received)


class TrustedSource:
    """Rejects requests to other hosts (421), and requests that pages of other sites send (403).

    Without keys, a web site could otherwise point its own name at this machine and read the
    collection (DNS rebinding). A browser also sends requests of other pages without asking the
    service first, so that any web site could delete items; safe methods stay allowed.
    """

    def __init__(self, app: ASGIApp, *, local_only: bool) -> None:
        """Answer requests to loopback addresses only, if `local_only`."""
        self._app = app
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request of a trusted source."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                if self._local_only:
                    _check_host(headers)
                if scope["method"] not in _SAFE_METHODS:
                    check_origin(headers)
            except ServiceError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class ResponseHeaders:
    """Adds headers to every response that lacks them."""

    def __init__(self, app: ASGIApp, *, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = dict(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the headers to its response."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    there.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


def bounded(receive: Receive, max_bytes: int) -> Receive:
    """Return a function that receives a body of at most `max_bytes`; a larger one is a 413."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise HTTPException(413, too_large(max_bytes))
        return message

    return limited


def check_values(body: bytes, *, max_values: int = MAX_VALUES) -> None:
    """Check that a JSON body has few values and keys, before it is parsed.

    Every value follows a comma or an opening bracket, and a colon follows every key. Images as data
    URIs have nearly none.
    """
    values = keys = 0
    for start in range(0, len(body), _COUNTED_BYTES):
        end = start + _COUNTED_BYTES
        values += sum(body.count(sign, start, end) for sign in (b",", b"[", b"{"))
        keys += body.count(b":", start, end)
        if values > max_values or keys > MAX_KEYS:
            raise ServiceError(
                f"a request body must have at most {max_values:,} values and {MAX_KEYS:,} keys, "
                "commas and colons in texts included",
                status=413,
                code="too_large",
            )


def too_large(max_bytes: int) -> str:
    """Describe the limit of a body in an error message."""
    return f"a request body must have at most {max_bytes:,} bytes here"


def _check_host(headers: Headers) -> None:
    hosts = [_HOST.fullmatch(host) for host in headers.getlist("host")]
    if not all(host and is_loopback(host[1].lower()) for host in hosts):
        raise ServiceError(
            "without keys only requests to localhost are answered", status=421, code="wrong_host"
        )


def check_origin(headers: Headers) -> None:
    """Check that no page of another origin sends a request.

    `Sec-Fetch-Site` takes precedence: it is also right behind a proxy that changes `Host`. Only
    browsers send these headers, so requests without them are of other clients.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        allowed = origin is None or _host_of(origin) == headers.get("host")
    if not allowed:
        page = "of another site" if origin is None else f"from {origin[:200]!r}"
        raise ServiceError(
            f"requests of pages {page} are not answered: send it from a page of this service, or "
            "without the headers Origin and Sec-Fetch-Site",
            status=403,
            code="wrong_origin",
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _counted(received: int) -> int:
    """Return how much of a body counts for the total limit: small bodies are always accepted."""
    return max(0, received - _SMALL_BYTES)


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


# Metrics of requests: counts and latencies by route template and status.

OTHER = "other"
"""Label of requests without a route: files of the page, unknown paths, rejected hosts."""


class RequestMetrics:
    """Counters and histograms of one application; thread-safe."""

    def __init__(self, *, by_key: bool = False) -> None:
        """Create the metrics."""
        self._registry = CollectorRegistry()
        self._by_key = by_key
        labels = ["method", "route", "status", *(["key"] if by_key else [])]
        self._requests = Counter(
            "coca_requests", "Answered requests", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "coca_request_seconds",
            "Time from a request to the end of its response, in seconds",
            labels,
            registry=self._registry,
        )

    def add(self, method: str, route: str, status: int, seconds: float, *, key: str = "") -> None:
        """Count an answered request; `key` is the name of its key, if it has a valid one."""
        labels = (method, route, status, *((key,) if self._by_key else ()))
        self._requests.labels(*labels).inc()
        self._seconds.labels(*labels).observe(seconds)

    def text(self, key: str | None = None) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry if key is None else _OfKey(self._registry, key))


class _OfKey(CollectorRegistry):
    """The metrics of one key."""

    def __init__(self, registry: CollectorRegistry, key: str) -> None:
        super().__init__()
        self._all, self._key = registry, key

    def collect(self) -> Iterator[Metric]:
        """Iterate over the metrics."""
        for metric in self._all.collect():
            own = Metric(metric.name, metric.documentation, metric.type)
            own.samples = [one for one in metric.samples if one.labels.get("key") == self._key]
            yield own


class MeasureRequests:
    """Middleware that counts requests and measures their time."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it by the route that answered it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            method, route = _labels(scope)
            # The route finds the tenant, if it needs one and the key is valid.
            tenant = scope.get("state", {}).get("tenant")
            key = "" if tenant is None else tenant.name
            self._metrics.add(method, route, status, time.perf_counter() - started, key=key)


def _labels(scope: Scope) -> tuple[str, str]:
    """Return method and route template: values that a client cannot invent."""
    route = scope.get("route")
    methods = getattr(route, "methods", None) or ()
    method = scope["method"] if scope["method"] in methods else OTHER
    return method, getattr(route, "path", None) or OTHER
