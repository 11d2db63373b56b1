"""Routes of operators: health, readiness, KServe v2 health, metrics for Prometheus, and links."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from pydantic import Field

from coca.server.bodies import Body
from coca.server.errors import ServiceError
from coca.server.middleware import RequestMetrics
from coca.server.routes.tenants import CurrentTenant, KeyedRoute, Writer
from coca.server.service import Service

router = APIRouter(tags=["operations"], route_class=KeyedRoute)


@router.get("/healthz")
@router.get("/health")
async def healthz() -> dict[str, str]:
    """Report that the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(request: Request) -> dict[str, str | int]:
    """Report that all collections answer.

    `reading` is the number of collections whose items are still being read: their first list waits.
    """
    service: Service = request.app.state.service
    for served in service.collections.values():
        served.collection.count()
    return {"status": "ready", "reading": service.reading}


@router.get("/v2/health/live")
async def live() -> dict[str, bool]:
    """Report that the process answers, as KServe v2 has it."""
    return {"live": True}


@router.get("/v2/health/ready")
def ready(request: Request) -> dict[str, bool]:
    """Report that all collections answer, as KServe v2 has it."""
    readyz(request)
    return {"ready": True}


@router.get("/metrics", response_class=Response)
def metrics(request: Request, tenant: CurrentTenant) -> Response:
    """Report requests, items and waiting inputs for Prometheus; to a key only its own.

    A key with `admin` and a service without keys report all requests.
    """
    requests: RequestMetrics = request.app.state.metrics
    registry = CollectorRegistry()
    items = Gauge("coca_items", "Items of a collection", ["collection"], registry=registry)
    for name in tenant.names:
        items.labels(name).set(tenant.collection(name).collection.count())
    if tenant.is_admin:
        waiting = Gauge(
            "coca_waiting", "Inputs that wait for the model", ["kind"], registry=registry
        )
        waiting.labels("text").set(tenant.service.model.texts.waiting)
        waiting.labels("image").set(tenant.service.model.images.waiting)
    own = None if tenant.is_admin else tenant.name
    text = requests.text(own) + generate_latest(registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


class LinkRequest(Body):
    """A link to make."""

    days: Annotated[int, Field(ge=1, le=365)] = 30
    """Days until it ends."""


class Link(Body):
    """A key for a link, `ADDRESS/#key=KEY`: it reads what the key of the request reads."""

    key: str
    expires: datetime


@router.post("/v1/links", status_code=201)
def link(body: LinkRequest, tenant: Writer) -> Link:
    """Make a key that may only read, and that ends after some days or with the key itself."""
    if tenant.key is None:
        raise ServiceError(
            "this service needs no key, so its address is a link", status=400, code="no_keys"
        )
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=body.days)
    tenant.record("link", "", expires=expires.isoformat())
    ends = min(expires, tenant.key.expires or expires)
    return Link(key=tenant.service.keys.link(tenant.key, expires), expires=ends)
