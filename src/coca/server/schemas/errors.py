"""Bodies of errors, and the statuses that routes document."""

from typing import Any

from coca.server.schemas.shared import Body


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
        503: "The service is overloaded or busy",
    }
)
"""Errors of all routes."""

WRITE_ERRORS = _described({507: "The disk is full"})
"""Further errors of routes that write."""
