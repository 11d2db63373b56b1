"""Routes `/v1/jobs`: index folders in the background, with progress and cancellation."""

from fastapi import APIRouter

from coca.server.collections.jobs import IndexJob
from coca.server.routes.tenants import CurrentTenant, KeyedRoute, Writer
from coca.server.schemas.collections import Job, JobList, JobRequest
from coca.server.schemas.errors import WRITE_ERRORS

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
    tenant.record("cancel", job.collection.name, job=job.id)
    return _body(job)


def _body(job: IndexJob) -> Job:
    return Job(
        id=job.id,
        kind="index",
        collection=job.collection.name,
        state=job.state,
        done=job.done,
        total=job.total,
        step=job.step,
        error=job.error,
        result=job.result,
    )
