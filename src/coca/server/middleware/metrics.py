"""Metrics of requests for Prometheus: counts and latencies by route template and status."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
