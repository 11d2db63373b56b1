"""FastAPI application of the service, run in this process by uvicorn."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import uvicorn
from anyio import to_thread
from fastapi import APIRouter, FastAPI
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from coca import __version__
from coca.core.errors import ConfigError
from coca.core.malloc import free_memory
from coca.core.registry import Registry
from coca.server.bodies import JSON, JSON_VALUE
from coca.server.connections import BACKLOG, ConnectionLimits, limited_protocol, max_connections
from coca.server.errors import ERRORS, add_error_handlers
from coca.server.middleware import (
    BodyLimit,
    MeasureRequests,
    RequestMetrics,
    ResponseHeaders,
    TrustedSource,
)
from coca.server.page_files import PAGE, PageFiles
from coca.server.places import Places
from coca.server.routes import (
    downloads,
    generation,
    items,
    mining,
    operations,
    saved_searches,
    search,
)
from coca.server.routes.search import capabilities_of
from coca.server.service import Service
from coca.server.settings import ServerSettings

logger = logging.getLogger(__name__)

ROUTES: Registry[APIRouter] = Registry("routes", "routes", APIRouter)
"""Routes that plug-ins add."""

_REFRESH_S = 1.0
"""Time between two looks at the file of the keys, in seconds."""
_FREE_S = 30.0
"""Seconds after which free memory is returned to the system."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def create_app(service: Service, settings: ServerSettings) -> FastAPI:
    """Build the application; it does not close the service."""
    tools = None
    if find_spec("mcp") is not None:
        from coca.server.routes.mcp import mcp_route

        tools, sessions = mcp_route()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.read_ahead()
        service.places.open(service.keys.configs, max_connections=max_connections())
        tasks = [
            asyncio.create_task(_repeat(service.keys.refresh, _REFRESH_S)),
            asyncio.create_task(_repeat(free_memory, _FREE_S)),
        ]
        try:
            async with sessions.run() if tools else nullcontext():
                yield
        finally:
            for task in tasks:
                task.cancel()

    app = FastAPI(
        title="coca",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.state.service = service
    add_error_handlers(app, headers=_HEADERS)

    app.add_middleware(
        GZipMiddleware,
        minimum_size=1_000,
        # Level 9 takes four times as long, for 5 % of the bytes.
        compresslevel=4,
        exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, "image/*"),
    )
    app.add_middleware(
        BodyLimit,
        max_bytes=int(settings.max_body_mb * 1e6),
        max_total_bytes=int(settings.max_bodies_mb * 1e6),
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(TrustedSource, local_only=not service.keys.are_needed)
    app.add_middleware(ResponseHeaders, headers=_HEADERS)
    app.state.metrics = RequestMetrics(by_key=service.keys.are_needed)
    app.add_middleware(MeasureRequests, metrics=app.state.metrics)
    parts = [operations, search, saved_searches, items, downloads, generation, mining]
    for part in parts:
        app.include_router(part.router)
    routers = [part.router for part in parts]
    for name in ROUTES.names():
        try:
            app.include_router(added := ROUTES.get(name))
        except ConfigError as error:
            # A part that is missing must not keep the service from starting.
            logger.warning("the routes %s are left out: %s", name, error)
        else:
            routers.append(added)
    describe, capable = app.openapi, capabilities_of(service.model.predictor)

    def openapi() -> dict[str, Any]:
        """Describe what this service accepts."""
        schema = describe()
        for name in {"caption", "answer"}.difference(capable):
            schema["paths"].pop(f"/v1/{name}", None)
        schema["components"]["schemas"]["Json"] = JSON
        for model in schema["components"]["schemas"].values():
            properties = model.get("properties", {})
            if bounded := properties.get("dimensions"):
                bounded["anyOf"][0]["maximum"] = service.model.predictor.embed_dim
            if metadata := properties.get("metadata"):
                metadata["additionalProperties"] = JSON_VALUE
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.state.routes = [route for router in routers for route in router.routes]
    if tools is not None:
        app.router.routes.append(tools)
        app.state.routes.append(tools)
    if (PAGE / "index.html").is_file():
        app.mount("/", PageFiles(), name="page")
    return app


async def _repeat(work: Callable[[], None], seconds: float) -> None:
    """Do some work in a thread again and again."""
    while True:
        await asyncio.sleep(seconds)
        await to_thread.run_sync(work)


def run(
    service: Service,
    settings: ServerSettings,
    *,
    log: Callable[[str], None],
    open_page: bool = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM; requests in progress have some seconds to finish.

    It is called in the main thread, which alone receives signals.
    """
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    limits = ConnectionLimits(
        header_timeout_s=settings.header_timeout_s,
        read_timeout_s=settings.body_timeout_s,
        max_connections=max_connections(),
    )
    app = create_app(service, settings)
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        # No route is a WebSocket, and those have none of the limits.
        ws="none",
        # uvicorn trusts `X-Forwarded-For` of all clients of this machine by default.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        # Where no connection waits for a header, further requests get status 503.
        limit_concurrency=limits.max_connections + 1,
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        log_level="warning",
        access_log=False,
    )
    log(f"serving {', '.join(service.collections)} at {url}; stop by Ctrl-C")
    if open_page:
        # The socket listens already, so the browser only waits.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    # uvicorn raises SIGTERM again when it has ended, which would end the process before the
    # collections are closed.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _Server(config, service.places).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Server(uvicorn.Server):
    """Server that ends the work of requests before it cancels them, so that each has an answer."""

    def __init__(self, config: uvicorn.Config, places: Places) -> None:
        super().__init__(config)
        self._places = places

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests in progress."""
        assert self.config.timeout_graceful_shutdown is not None
        self._places.end(within_s=self.config.timeout_graceful_shutdown / 2)
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; a response takes 40 ms more
    # without it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the service cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    return listener
