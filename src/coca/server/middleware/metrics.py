"""Metrics of requests for Prometheus: counts and latencies by route template and status."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OTHER = "other"
"""Label of requests without a route: files of the page, unknown paths, rejected hosts."""


class RequestMetrics:
    """Counters and histograms of one application; thread-safe."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "coca_requests", "Answered requests", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "coca_request_seconds",
            "Time from a request to the end of its response, in seconds",
            labels,
            registry=self._registry,
        )

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route, status).observe(seconds)

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


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
            self._metrics.add(method, route, status, time.perf_counter() - started)


def _labels(scope: Scope) -> tuple[str, str]:
    """Return method and route template: values that a client cannot invent."""
    route = scope.get("route")
    methods = getattr(route, "methods", None) or ()
    method = scope["method"] if scope["method"] in methods else OTHER
    return method, getattr(route, "path", None) or OTHER
