"""Tenant of a request: its key is checked before its body is read."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeAlias, get_type_hints

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from coca.server.errors import ServiceError
from coca.server.middleware.limits import bounded, check_values
from coca.server.requests.multipart import is_form, with_json
from coca.server.service import Service, Tenant


class KeyedRoute(APIRoute):
    """Route that checks key and size of a request before it parses the body.

    FastAPI itself reads and parses the body before it calls the dependencies.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Build the handler; only endpoints with a parameter `tenant` need a key."""
        handle = super().get_route_handler()
        parameters = get_type_hints(self.endpoint)
        body = parameters.get("body")

        async def checked(request: Request) -> Response:
            if "tenant" in parameters:
                request.state.tenant = tenant_of(request)
            if body is not None:
                if body.max_bytes is not None:
                    request = Request(request.scope, bounded(request.receive, body.max_bytes))
                if is_form(request):
                    request = await with_json(request, body)
                check_values(await request.body())
            return await handle(request)

        return checked


def tenant_of(request: Request) -> Tenant:
    """Return what the key of a request may use, and count the request.

    Raises:
        ServiceError: The key is missing or unknown (401), or above its rate or quota (429).
    """
    service: Service = request.app.state.service
    served = tuple(service.collections)
    address = "" if request.client is None else request.client.host
    if not service.keys:
        return Tenant(service, served, address=address)
    key = service.keys.find(request.headers.get("authorization"), address)
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
    """Return the tenant of a request that writes.

    Raises:
        ServiceError: The key may only read (403).
    """
    if not tenant.writable:
        raise ServiceError("this key may only read", status=403, code="read_only")
    return tenant


Writer: TypeAlias = Annotated[Tenant, Depends(writer_of)]
