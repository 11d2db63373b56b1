"""Routes of the health checks of KServe's open inference protocol v2."""

from fastapi import APIRouter, Request

from coca.server.routes.operations import readyz

router = APIRouter(tags=["kserve"])


@router.get("/v2/health/live")
async def live() -> dict[str, bool]:
    """Report that the process answers."""
    return {"live": True}


@router.get("/v2/health/ready")
def ready(request: Request) -> dict[str, bool]:
    """Report that all collections answer."""
    readyz(request)
    return {"ready": True}
