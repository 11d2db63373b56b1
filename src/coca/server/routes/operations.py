"""Routes of operators: health, readiness, and metrics for Prometheus."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from coca.server.middleware import RequestMetrics
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.service import Service

router = APIRouter(tags=["operations"], route_class=KeyedRoute)


@router.get("/healthz")
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
