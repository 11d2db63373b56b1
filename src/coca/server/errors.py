"""HTTP status and body of each error, `{"error": {"message", "type", "code"}}` as of OpenAI."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from coca.core.errors import (
    ArgumentError,
    CocaError,
    ConfigError,
    DataError,
    MissingExtraError,
    SearchError,
    StorageError,
    UnsupportedError,
)
from coca.server.bodies import Body

logger = logging.getLogger(__name__)

_MAX_FAULTS = 10
"""Maximum number of faults of a body in the message of an error."""
_MAX_FAULT = 500
"""Maximum length of one fault of a body, in characters: names of fields are of the client."""
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ServiceError(CocaError):
    """A request that the service rejects, with its HTTP status.

    Attributes:
        status: HTTP status code.
        code: Short slug for programs.
        retry_after_s: Value of the header `Retry-After`, in seconds; None: no such header.
    """

    def __init__(
        self, message: str, *, status: int, code: str, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


def status_of(error: CocaError) -> tuple[int, str]:
    """Map an error to its HTTP status and code."""
    match error:
        case ServiceError():
            return error.status, error.code
        case DataError(reason="too_large"):
            return 413, "too_large"
        case DataError():
            return 422, error.reason
        case ArgumentError() | ConfigError():
            return 400, "invalid_argument"
        case StorageError():
            return 507, "insufficient_storage"
        case UnsupportedError() | MissingExtraError():
            return 501, "unsupported"
        case SearchError():
            return 503, "unavailable"
    return 500, "failed"


def error_body(message: str, status: int, code: str) -> dict[str, Any]:
    """Build the body of an error response."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "code": code}}


def error_response(error: CocaError) -> JSONResponse:
    """Build the response to an error of the package."""
    status, code = status_of(error)
    headers = {}
    if isinstance(error, ServiceError) and error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(str(error), status, code), status, headers)


def add_error_handlers(app: FastAPI, *, headers: Mapping[str, str]) -> None:
    """Answer every error in one form.

    Args:
        app: The application.
        headers: Headers of the response to an unexpected error, which no middleware sees.
    """

    @app.exception_handler(CocaError)
    async def _coca_error(request: Request, error: CocaError) -> JSONResponse:
        if status_of(error)[0] == 500:
            return await _unexpected(request, error)
        if isinstance(error, StorageError):
            # Its text names folders of this machine.
            logger.error("%s %s failed: %s", request.method, request.url.path, error)
            sentence = "the service cannot write: its disk is full or fails; see its log"
            return error_response(StorageError(sentence))
        if isinstance(error, SearchError) and not isinstance(error, ArgumentError):
            logger.error("%s %s failed: %s", request.method, request.url.path, error)
            sentence = "the collection cannot answer now: it is busy or was replaced; see the log"
            return error_response(SearchError(sentence))
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        sentence = _faults(error)
        if request.headers.get("content-type", "").startswith(_FORM):
            sentence += "; send JSON with the header Content-Type: application/json"
        return JSONResponse(error_body(sentence, 422, "invalid_request"), 422)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
        status, detail, headers = error.status_code, str(error.detail), dict(error.headers or {})
        # Routes themselves raise neither: the files of the page answer what no route takes.
        if status in (404, 405) and (allowed := _allowed_methods(request)):
            status, detail = 405, "Method Not Allowed"
            headers["Allow"] = ", ".join(allowed)
        body = error_body(detail, status, "http_error")
        return JSONResponse(jsonable_encoder(body), status, headers)

    @app.exception_handler(ClientDisconnect)
    async def _left(request: Request, error: ClientDisconnect) -> Response:
        # A thousand tracebacks in the log would stall all other requests for seconds.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse(
            error_body("the service failed; see its log", 500, "failed"), 500, headers
        )


_FORM = "application/x-www-form-urlencoded"
"""What `curl -d` sends without a header."""


def _faults(error: RequestValidationError) -> str:
    """Describe the first faults of a body in one line."""
    faults = error.errors()
    shown = [
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"[:_MAX_FAULT]
        for fault in faults[:_MAX_FAULTS]
    ]
    return "; ".join([*shown, *(["and further faults"] if len(faults) > _MAX_FAULTS else [])])


def _allowed_methods(request: Request) -> list[str]:
    """List the methods of all routes with the path of a request."""
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.state.routes
        )
    ]


# Bodies of errors, and the statuses that routes document.


class ErrorDetail(Body):
    """What is wrong."""

    message: str
    """One sentence for people."""
    type: str
    code: str | None
    """Short slug for programs."""


class ErrorBody(Body):
    """Body of every error, as of OpenAI."""

    error: ErrorDetail


def _described(statuses: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ErrorBody, "description": description}
        for status, description in statuses.items()
    }


ERRORS = _described(
    {
        400: "A value contradicts the collection or the model, or the request has two lengths",
        401: "There is no valid key",
        403: "A page of another site sends it, the key may only read, or the folder is not allowed",
        404: "There is no such collection or item",
        408: "The body came too slowly",
        413: "The body or an image is too large",
        421: "The host is not local, and there are no keys",
        422: "The request has another form, or an image cannot be decoded",
        429: "The key is above its rate or quota",
        500: "The service failed",
        501: "The model does not have the operation, or the service an extra",
        503: "The service is overloaded or busy",
    }
)
"""Errors of all routes."""

WRITE_ERRORS = _described({507: "The disk is full"})
"""Further errors of routes that write."""
CHANGED_ERRORS = _described({412: "The item has changed, and has another `ETag`"})
"""Further errors of routes with `If-Match`."""
