"""Convert forms with an image file, `curl -F image=@cat.png`, to the JSON bodies of the routes."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException, Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.types import Message

from coca.server.middleware.limits import check_values

_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 1_000_000
"""Maximum size of all fields without the file, in bytes, as of a JSON body without images."""
_FILE_FIELDS = frozenset({"image", "file"})
"""Names of parts that are the image."""


def is_form(request: Request) -> bool:
    """Return whether the body of a request is a form with files."""
    return request.headers.get("content-type", "").startswith("multipart/form-data")


async def with_json(request: Request, body: type[BaseModel]) -> Request:
    """Return the request with its form as JSON.

    The file becomes a data URI. A field that may be a text stays as it is; others, such as numbers
    and lists, are JSON.

    Args:
        request: A request whose body is a form.
        body: Model of the JSON body.

    Raises:
        HTTPException: It is not a valid form (status 400), or its fields are too large (413).
        ServiceError: Its fields have too many values (status 413).
    """
    properties = body.model_json_schema().get("properties", {})
    values: dict[str, Any] = {}
    async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
        fields = [value for _, value in form.multi_items() if isinstance(value, str)]
        if sum(map(len, fields)) > _MAX_FIELD_BYTES:
            raise HTTPException(
                413, f"the fields of a form must have at most {_MAX_FIELD_BYTES:,} characters"
            )
        # Before any field is parsed, which blocks all other requests.
        check_values("".join(fields).encode())
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                values[name] = _parsed(value, properties.get(name, {}))
                continue
            if name not in _FILE_FIELDS:
                raise HTTPException(400, f"the file must be the field image, got {name[:64]!r}")
            encoded = base64.b64encode(await value.read()).decode()
            values["image"] = f"data:{value.content_type or ''};base64,{encoded}"
            if "name" in properties and value.filename:
                values.setdefault("name", value.filename[:255])
    content = json.dumps(values).encode()

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    kept = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
    headers = [*kept, (b"content-type", b"application/json")]
    return Request({**request.scope, "headers": headers}, receive)


def _parsed(text: str, schema: Mapping[str, Any]) -> Any:
    kinds = [schema, *schema.get("anyOf", ())]
    if any(kind.get("type") == "string" for kind in kinds):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # The model of the body names the field and what is allowed.
        return text
