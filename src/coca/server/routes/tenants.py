"""Tenant of a request, and its body: parsed and validated before FastAPI, off the event loop."""

import json
import math
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_type_hints

from anyio import to_thread
from fastapi import Depends, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from coca.core.errors import ConfigError
from coca.server.bodies import ImageReference
from coca.server.collections.served_collection import ServedCollection
from coca.server.errors import ServiceError
from coca.server.images.data_uris import read_data_uri
from coca.server.keys import KeyConfig, requests_of
from coca.server.middleware import bounded, check_origin, check_values
from coca.server.service import Service

# Bodies: JSON, and forms with an image file, `curl -F image=@cat.png`.


_JSON = re.compile(r"application/(?:.+\+)?json")
_SMALL_BYTES = 16_384
"""Maximum size of a body that is parsed on the event loop: a thread would take longer."""
_MAX_DIGITS = 64
_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 1_000_000
"""Maximum size of all fields without the file, in bytes, as of a JSON body without images."""
_FILE_FIELDS = frozenset({"image", "file"})
"""Names of parts that are the image."""


async def _received(request: Request, kind: type[BaseModel]) -> "_Received | None":
    """Receive the body of a request; None if it is empty."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        fields, file_name = await _fields(request)
        size = sum(map(len, fields.values()))
        return _Received(request.scope, size, lambda: _from_form(fields, file_name, kind))
    if not (content := await request.body()):
        return None
    # Other media types are sent without a question by pages of other sites.
    parse = _from_json if _JSON.fullmatch(media_type) else _refused
    return _Received(request.scope, len(content), lambda: parse(content, kind))


@dataclass(frozen=True)
class _Received:
    """A body that is not parsed yet."""

    scope: Scope
    size: int
    build: Callable[[], BaseModel]

    async def request(self) -> Request:
        """Parse and validate the body; FastAPI passes it on as it is.

        FastAPI would do both on the event loop, where no other request is answered meanwhile.
        """
        try:
            body = (
                await to_thread.run_sync(self.build) if self.size > _SMALL_BYTES else self.build()
            )
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError(
                [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
            ) from error
        kept = [pair for pair in self.scope["headers"] if pair[0] != b"content-type"]
        headers = [*kept, (b"content-type", b"application/json")]
        return _ValidRequest({**self.scope, "headers": headers}, body)


class _ValidRequest(Request):
    """Request with a valid body."""

    def __init__(self, scope: Scope, body: BaseModel) -> None:
        super().__init__(scope)
        self._valid = body

    async def body(self) -> bytes:
        """Return what is not empty, so that FastAPI takes the JSON."""
        return b"{}"

    async def json(self) -> BaseModel:
        """Return the valid body."""
        return self._valid


def _from_json(content: bytes, kind: type[BaseModel]) -> BaseModel:
    check_values(content)
    try:
        values = json.loads(content, parse_float=_number, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        sentence = f"the body is not JSON: {error}" if str(error) else "the body is not JSON"
        raise HTTPException(400, sentence) from None
    return kind.model_validate(values)


def _refused(content: bytes, kind: type[BaseModel]) -> BaseModel:
    """Report that bytes of another media type are not a body."""
    return kind.model_validate(content)


async def _fields(request: Request) -> tuple[dict[str, str | bytes], str]:
    """Read the fields of a form, with its file as the field `image`, and the name of the file."""
    fields: dict[str, str | bytes] = {}
    file_name = ""
    async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
                continue
            if name not in _FILE_FIELDS:
                raise HTTPException(400, f"the file must be the field image, got {name[:64]!r}")
            fields["image"] = await value.read()
            file_name = (value.filename or "")[:255]
    return fields, file_name


def _from_form(
    fields: Mapping[str, str | bytes], file_name: str, kind: type[BaseModel]
) -> BaseModel:
    """Validate a form: a field that may be a text stays as it is, others are JSON."""
    texts = [value for value in fields.values() if isinstance(value, str)]
    if sum(map(len, texts)) > _MAX_FIELD_BYTES:
        raise HTTPException(
            413, f"the fields of a form must have at most {_MAX_FIELD_BYTES:,} characters"
        )
    check_values("".join(texts).encode())
    properties = kind.model_json_schema().get("properties", {})
    values = {
        name: _parsed(value, properties.get(name, {})) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    if "name" in properties and file_name:
        values.setdefault("name", file_name)
    return kind.model_validate(values)


def _parsed(text: str, schema: Mapping[str, Any]) -> Any:
    kinds = [schema, *schema.get("anyOf", ())]
    if any(kind.get("type") == "string" for kind in kinds):
        return text
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)  # of Python
    except (ValueError, RecursionError):
        # The model of the body names the field and what is allowed.
        return text


def _number(text: str) -> int | float:
    """Parse a number with a point or an exponent: 2.0 is whole, as in JSON Schema."""
    number = float(text)
    return int(number) if abs(number) < 2**63 and number.is_integer() else number


def _whole(text: str) -> int | float:
    """Parse a whole number; the time for its digits is quadratic, and no field takes so many."""
    return int(text) if len(text) <= _MAX_DIGITS else math.inf


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

    def charge(self, **work: int) -> None:
        """Count the work of a request before it is done; see `requests_of`."""
        if self.key is not None:
            counted = requests_of(**work)
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
    takes_cookie = False
    """Whether it accepts the cookie of `POST /v1/session` in place of a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Build the handler; only endpoints with a parameter `tenant` need a key."""
        handle = super().get_route_handler()
        parameters = get_type_hints(self.endpoint)
        body = parameters.get("body")

        async def checked(request: Request) -> Response:
            if "tenant" not in parameters:
                return await handle(request)
            tenant = request.state.tenant = tenant_of(
                request, counted=self.is_counted, takes_cookie=self.takes_cookie
            )
            receive, received = request.receive, None
            if body is not None:
                if body.max_bytes is not None:
                    receive = bounded(receive, body.max_bytes)
                received = await _received(request := Request(request.scope, receive), body)
            async with tenant.service.places.place(tenant.key, receive):
                return await handle(await received.request() if received else request)

        return checked


class FileRoute(KeyedRoute):
    """Route that reads files only, also for images and forms of a page, which send no key."""

    takes_cookie = True


class UncountedRoute(FileRoute):
    """Route for files that a client requests by the dozen, for one request that counts."""

    is_counted = False


def session_cookie(request: Request) -> str:
    """Return the name of the session cookie: browsers send cookies to all ports of a host."""
    return f"coca_session_{request.url.port or ''}"


def tenant_of(request: Request, *, counted: bool = True, takes_cookie: bool = False) -> Tenant:
    """Return what the key of a request may use.

    Args:
        request: Request.
        counted: Count it for the rate and the quota of its key.
        takes_cookie: Accept a session cookie in place of the `Authorization` header.
    """
    service: Service = request.app.state.service
    served = tuple(service.collections)
    address = "" if request.client is None else request.client.host
    if not service.keys.are_needed:
        return Tenant(service, served, address=address)
    header = request.headers.get("authorization")
    cookie = request.cookies.get(session_cookie(request)) if takes_cookie else None
    if header is None and cookie is not None:
        # Other ports of the host are the same site to a browser, which sends them the cookie.
        check_origin(request.headers)
        key = service.keys.find_session(cookie)
    else:
        key = service.keys.find(header)
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
