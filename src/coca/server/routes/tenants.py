"""Tenant of a request, as a dependency of routes."""

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from coca.server.service import Tenant


def tenant_of(request: Request) -> Tenant:
    """Return what the key of a request may use."""
    service = request.app.state.service
    return Tenant(service, tuple(service.collections))


CurrentTenant: TypeAlias = Annotated[Tenant, Depends(tenant_of)]
