"""Routes `/v1/jobs`: index folders in the background, with progress and cancellation."""

from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter
from pydantic import Field

from coca.runtime.base_predictor import BasePredictor
from coca.server.bodies import Body, CollectionName
from coca.server.collections.jobs import IndexJob
from coca.server.errors import WRITE_ERRORS
from coca.server.routes.tenants import CurrentTenant, KeyedRoute, Writer

# Bodies of `/v1/collections` and `/v1/jobs`.


class JobRequest(Body):
    """Folders on the machine of the service to index in the background."""

    kind: Literal["index"] = "index"
    uris: Annotated[
        list[Annotated[str, Field(max_length=4_096)]], Field(min_length=1, max_length=64)
    ]
    """Absolute paths in the folders that the operator allows."""
    collection: CollectionName = None
    captions: bool = True
    """Generate captions for images that have none."""


class Job(Body):
    """A job in the background."""

    id: str
    kind: Literal["index"]
    collection: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    done: int
    """Number of processed images of the current step."""
    total: int | None
    """Number of images of the current step; null if unknown."""
    step: str
    error: str | None
    result: dict[str, int] | None
    """Counts of added, updated, unchanged, duplicate, removed and unreadable images."""


class JobList(Body):
    """Jobs of the key, newest first."""

    jobs: list[Job]


class CalibrationSummary(Body):
    """Calibration of match probabilities."""

    false_alarms: float
    """Maximum rate of texts that match nothing and have a hit above the limit."""
    found: float | None
    """Rate of texts with a known image that has a score above the limit; null without one."""
    records: int
    """Number of items when the collection was calibrated."""


class CollectionDescription(Body):
    """A collection that the key may use."""

    name: str
    count: int
    embed_dim: int
    model: str
    fingerprint: str
    index_type: str
    calibration: CalibrationSummary | None
    """Null if hits have no match probability."""


Capability: TypeAlias = Literal["caption", "answer"]
"""Operation that not every model has."""


def capabilities_of(predictor: BasePredictor) -> list[Capability]:
    """List what a model does besides search."""
    known: dict[Capability, bool] = {
        "caption": predictor.has_decoder,
        "answer": predictor.answers_questions,
    }
    return [name for name, there in known.items() if there]


class CollectionList(Body):
    """Collections that the key may use; the first one is the default."""

    collections: list[CollectionDescription]
    writable: bool
    """Whether the key may add, change and delete items."""
    capabilities: list[Capability]
    """What the model of the collections does besides search: `caption` (captions and reranking),
    `answer` (questions, by a head)."""


router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=KeyedRoute)


@router.post("", status_code=202, responses=WRITE_ERRORS)
def start(body: JobRequest, tenant: Writer) -> Job:
    """Index folders of the machine of the service, which its operator allows."""
    collection = tenant.collection(body.collection)
    jobs = tenant.service.jobs
    job = jobs.start(body.uris, collection, captions=body.captions, owner=tenant.name)
    tenant.record("index", collection.name, uris=body.uris, job=job.id)
    return _body(job)


@router.get("")
def jobs(tenant: CurrentTenant) -> JobList:
    """List the jobs of the key, newest first."""
    return JobList(jobs=[_body(job) for job in tenant.service.jobs.of(tenant.name)])


@router.get("/{id}")
def job(id: str, tenant: CurrentTenant) -> Job:
    """Return a job with its progress."""
    return _body(tenant.service.jobs.get(id, tenant.name))


@router.delete("/{id}", responses=WRITE_ERRORS)
def cancel(id: str, tenant: Writer) -> Job:
    """Cancel a job; what it wrote is kept."""
    job = tenant.service.jobs.get(id, tenant.name)
    tenant.service.jobs.cancel(job)
    tenant.record("cancel", job.served.name, job=job.id)
    return _body(job)


def _body(job: IndexJob) -> Job:
    return Job(
        id=job.id,
        kind="index",
        collection=job.served.name,
        state=job.state,
        done=job.done,
        total=job.total,
        step=job.step,
        error=job.error,
        result=job.result,
    )
