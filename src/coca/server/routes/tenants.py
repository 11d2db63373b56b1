"""Tenant of a request, as a dependency of routes."""

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from coca.server.errors import ServiceError
from coca.server.service import Service, Tenant


def tenant_of(request: Request) -> Tenant:
    """Return what the key of a request may use, and count the request.

    Raises:
        ServiceError: The key is missing or unknown (401), or above its rate or quota (429).
    """
    service: Service = request.app.state.service
    served = tuple(service.collections)
    if not service.keys:
        return Tenant(service, served)
    key = service.keys.find(request.headers.get("authorization"))
    service.keys.count(key)
    names = tuple(name for name in key.collections if name in served) or (
        () if key.collections else served
    )
    return Tenant(service, names, key.name, key.writable)


def writer_of(tenant: Annotated[Tenant, Depends(tenant_of)]) -> Tenant:
    """Return the tenant of a request that writes.

    Raises:
        ServiceError: The key may only read (403).
    """
    if not tenant.writable:
        raise ServiceError("this key may only read", status=403, code="read_only")
    return tenant


CurrentTenant: TypeAlias = Annotated[Tenant, Depends(tenant_of)]
Writer: TypeAlias = Annotated[Tenant, Depends(writer_of)]
