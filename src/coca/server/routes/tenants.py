"""Tenant of a request, and bodies sent as forms."""

import base64
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_type_hints

from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.types import Message

from coca.core.errors import ConfigError
from coca.server.bodies import ImageReference
from coca.server.collections.served_collection import ServedCollection
from coca.server.errors import ServiceError
from coca.server.images.data_uris import read_data_uri
from coca.server.keys import KeyConfig, requests_of
from coca.server.middleware import bounded, check_values
from coca.server.service import Service

# Convert forms with an image file, `curl -F image=@cat.png`, to the JSON bodies of the routes.


_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 1_000_000
"""Maximum size of all fields without the file, in bytes, as of a JSON body without images."""
_FILE_FIELDS = frozenset({"image", "file"})
"""Names of parts that are the image."""


async def with_json(request: Request, body: type[BaseModel]) -> Request:
    """Return the request with its form as JSON.

    The file becomes a data URI. A field that may be a text stays as it is; others, such as numbers
    and lists, are JSON.
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
    return JsonRequest({**request.scope, "headers": headers}, receive)


def _parsed(text: str, schema: Mapping[str, Any]) -> Any:
    kinds = [schema, *schema.get("anyOf", ())]
    if any(kind.get("type") == "string" for kind in kinds):
        return text
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)  # of Python
    except (ValueError, RecursionError):
        # The model of the body names the field and what is allowed.
        return text


class JsonRequest(Request):
    """Request in whose JSON 2.0 is a whole number, as in JSON Schema."""

    async def json(self) -> Any:
        """Parse the body."""

        def number(text: str) -> int | float:
            found = float(text)
            return int(found) if abs(found) < 2**63 and found.is_integer() else found

        return json.loads(await self.body(), parse_float=number)


# Tenant of a request: its key is checked before its body is read.


@dataclass(frozen=True)
class Tenant:
    """What a request may use: some collections, in the order of the key."""

    service: Service
    names: tuple[str, ...]
    key: KeyConfig | None = None
    """Key of the request; None without keys."""
    address: str = ""
    """Address of the client."""

    @property
    def name(self) -> str:
        """Name of the key in logs and metrics; empty without keys."""
        return "" if self.key is None else self.key.name

    @property
    def writable(self) -> bool:
        """Whether it may add, change and delete items."""
        return self.key is None or self.key.writable

    @property
    def is_admin(self) -> bool:
        """Whether it reads the metrics of all keys."""
        return self.key is None or self.key.admin

    def count_bytes(self, size: int) -> None:
        """Count bytes that the request is about to write."""
        if self.key is not None:
            self.service.keys.count_bytes(self.key, size)

    def record(self, action: str, collection: str, **details: Any) -> None:
        """Write a line of the audit log about a change that was made."""
        self.service.audit.write(
            action, key=self.name, address=self.address, collection=collection, **details
        )

    def charge(self, *, texts: int = 0, images: int = 0, captions: int = 0, pairs: int = 0) -> None:
        """Count the work of a request before it is done; see `requests_of`."""
        if self.key is not None:
            counted = requests_of(texts=texts, images=images, captions=captions, pairs=pairs)
            if counted > 1:
                self.service.keys.charge(self.key, counted - 1)

    def collection(self, name: str | None) -> ServedCollection:
        """Return a collection of the key; by default its first one."""
        name = self.names[0] if name is None and self.names else name
        if name not in self.names:
            # Also for collections of others, whose existence stays unknown.
            raise ServiceError(
                f"there is no collection {name!r}", status=404, code="no_such_collection"
            )
        return self.service.collections[name]

    def image(self, reference: ImageReference, collection: str | None) -> bytes:
        """Read the image that a request refers to."""
        if reference.image is not None:
            return read_data_uri(reference.image)
        if reference.id is not None:
            return self.service.original(self.collection(collection).record(reference.id))
        raise ConfigError("an image is missing: give image as a data URI, or the id of an item")


class KeyedRoute(APIRoute):
    """Route that checks key and size of a request before it parses the body.

    FastAPI itself reads and parses the body before it calls the dependencies.
    """

    is_counted = True
    """Whether a request counts for the rate and the quota of its key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Build the handler; only endpoints with a parameter `tenant` need a key."""
        handle = super().get_route_handler()
        parameters = get_type_hints(self.endpoint)
        body = parameters.get("body")

        async def checked(request: Request) -> Response:
            if "tenant" not in parameters:
                return await handle(request)
            tenant = request.state.tenant = tenant_of(request, counted=self.is_counted)
            receive = request.receive
            if body is not None:
                if body.max_bytes is not None:
                    receive = bounded(receive, body.max_bytes)
                request = JsonRequest(request.scope, receive)
                kind = request.headers.get("content-type", "")
                if kind.startswith("multipart/form-data"):
                    request = await with_json(request, body)
                check_values(await request.body())
            async with tenant.service.places.place(tenant.key, receive):
                return await handle(request)

        return checked


class UncountedRoute(KeyedRoute):
    """Route of which a client sends dozens of requests for one that counts."""

    is_counted = False


def tenant_of(request: Request, *, counted: bool = True) -> Tenant:
    """Return what the key of a request may use, and count the request if `counted`."""
    service: Service = request.app.state.service
    served = tuple(service.collections)
    address = "" if request.client is None else request.client.host
    if not service.keys.are_needed:
        return Tenant(service, served, address=address)
    key = service.keys.find(request.headers.get("authorization"))
    if counted:
        service.keys.count(key)
    names = tuple(name for name in key.collections if name in served) or (
        () if key.collections else served
    )
    return Tenant(service, names, key, address)


async def current_tenant(request: Request) -> Tenant:
    """Return the tenant that `KeyedRoute` found."""
    tenant: Tenant = request.state.tenant
    return tenant


CurrentTenant: TypeAlias = Annotated[Tenant, Depends(current_tenant)]


async def writer_of(tenant: CurrentTenant) -> Tenant:
    """Return the tenant of a request that writes."""
    if not tenant.writable:
        raise ServiceError("this key may only read", status=403, code="read_only")
    return tenant


Writer: TypeAlias = Annotated[Tenant, Depends(writer_of)]
