"""FastAPI application of the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, HTTPException, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from coca import __version__
from coca.server.errors import add_error_handlers
from coca.server.middleware.limits import (
    BodyLimit,
    EndedConnections,
    LocalHostOnly,
    ResponseHeaders,
    SameOriginWrites,
)
from coca.server.middleware.metrics import MeasureRequests, RequestMetrics
from coca.server.routes import generation, items, jobs, mining, openai, operations, search, tei
from coca.server.schemas.errors import ERRORS
from coca.server.service import Service
from coca.server.settings import ServerSettings

PAGE = Path(__file__).parent / "page"
"""Folder of the web page; it is served if it has an `index.html`."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def create_app(service: Service, settings: ServerSettings) -> FastAPI:
    """Build the application; it does not close the service.

    Args:
        service: Open collections and model.
        settings: Settings of the service.
    """
    tools = None
    if find_spec("mcp") is not None:
        from coca.server.routes.mcp import mcp_route

        tools, sessions = mcp_route()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.read_ahead()
        async with sessions.run() if tools else nullcontext():
            yield

    app = FastAPI(
        title="coca",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.state.service = service
    add_error_handlers(app)

    app.add_middleware(
        BodyLimit,
        max_bytes=int(settings.max_body_mb * 1e6),
        max_total_bytes=int(settings.max_bodies_mb * 1e6),
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(SameOriginWrites)
    app.add_middleware(EndedConnections)
    if not service.keys:
        app.add_middleware(LocalHostOnly)
    app.add_middleware(ResponseHeaders, headers=_HEADERS)
    app.state.metrics = RequestMetrics(by_key=bool(service.keys))
    app.add_middleware(MeasureRequests, metrics=app.state.metrics)
    parts = [operations, search, items, generation, mining, openai, tei]
    if service.jobs.folders:
        parts.append(jobs)
    for part in parts:
        app.include_router(part.router)
    app.state.routes = [route for part in parts for route in part.router.routes]
    if tools is not None:
        app.router.routes.append(tools)
    if (PAGE / "index.html").is_file():
        app.mount("/", _PageFiles(directory=PAGE, html=True), name="page")
    return app


class _PageFiles(StaticFiles):
    """Files of the page, which a browser compares with the service before each use.

    After an upgrade, a page of old and new scripts would otherwise fail.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        # Otherwise any unknown path has status 405 for other methods, as if it were there.
        if scope["method"] not in ("GET", "HEAD"):
            _, found = await to_thread.run_sync(self.lookup_path, path)
            if found is None:
                raise HTTPException(404)
        return await super().get_response(path, scope)

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response
