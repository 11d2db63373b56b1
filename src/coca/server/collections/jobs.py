"""Jobs that index folders in the background, one at a time."""

import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float32

from coca.core.errors import CocaError
from coca.core.progress import Bar
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.upsert import Captioner
from coca.server.collections.served_collection import ServedCollection
from coca.server.errors import ServiceError
from coca.server.served_model import ServedModel
from coca.workflows.collections.image_sources import check_filled, open_sources, resolve_uris
from coca.workflows.collections.index import MAX_BAD_FRACTION, BadImageLog

logger = logging.getLogger(__name__)

MAX_JOBS = 100
"""Maximum number of jobs that are kept or wait."""

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass
class IndexJob:
    """Indexing of folders into a collection, with its progress."""

    owner: str
    """Name of the key that started it."""
    served: ServedCollection
    folders: tuple[Path, ...]
    captions: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: State = "queued"
    step: str = ""
    done: int = 0
    total: int | None = None
    error: str | None = None
    result: dict[str, int] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.state not in ("queued", "running")


class Jobs:
    """Runs jobs in one thread, since Milvus Lite has one writer; thread-safe."""

    def __init__(
        self,
        model: ServedModel,
        folders: Sequence[Path],
        *,
        batch_size: int,
        text_reader: Captioner | None = None,
    ) -> None:
        """Start no thread before the first job."""
        self.folders = tuple(folder.resolve() for folder in folders)
        self._model = model
        self._batch_size, self._text_reader = batch_size, text_reader
        self._jobs: dict[str, IndexJob] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="index")

    def start(
        self, uris: Sequence[str], collection: ServedCollection, *, captions: bool, owner: str
    ) -> IndexJob:
        """Queue a job."""
        folders = tuple(self._allowed(uri) for uri in uris)
        job = IndexJob(owner, collection, folders, captions)
        with self._lock:
            ended = [one.id for one in self._jobs.values() if one.ended]
            for id in ended[: max(0, len(self._jobs) + 1 - MAX_JOBS)]:
                del self._jobs[id]
            if len(self._jobs) >= MAX_JOBS:
                raise ServiceError(
                    f"{MAX_JOBS} jobs wait already", status=503, code="busy", retry_after_s=60
                )
            self._jobs[job.id] = job
        self._pool.submit(self._run, job)
        return job

    def of(self, owner: str) -> list[IndexJob]:
        """List the jobs of a key, newest first."""
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if job.owner == owner]

    def get(self, id: str, owner: str) -> IndexJob:
        """Return a job of a key."""
        job = self._jobs.get(id)
        if job is None or job.owner != owner:
            raise ServiceError(f"there is no job {id!r}", status=404, code="no_such_job")
        return job

    def cancel(self, job: IndexJob) -> None:
        """Cancel a job; a running one ends after its current batch and keeps what it wrote."""
        with self._lock:
            job.cancelled.set()
            if job.state == "queued":
                job.state = "cancelled"

    def close(self) -> None:
        """Cancel all jobs, and wait for the end of the running one."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        self._pool.shutdown()

    def _allowed(self, uri: str) -> Path:
        try:
            folder = Path(uri).resolve()
        except (OSError, RuntimeError, ValueError):
            folder = Path()
        if not Path(uri).is_absolute() or not any(
            folder.is_relative_to(root) for root in self.folders
        ):
            # Also for missing folders, so that nobody learns which exist elsewhere.
            raise ServiceError(
                f"{uri!r} is in no folder that `coca serve --allow-folder` allows",
                status=403,
                code="folder_not_allowed",
            )
        if not os.path.isdir(folder):
            raise ServiceError(f"{uri!r} is not a folder", status=404, code="no_such_folder")
        return folder

    def _run(self, job: IndexJob) -> None:
        try:
            with job.served.indexing():
                with self._lock:
                    if job.ended:
                        return
                    job.state = "running"
                report = self._index(job)
        except _CancelledError:
            job.state = "cancelled"
        except CocaError as error:
            job.error, job.state = str(error), "failed"
        except Exception:
            logger.exception("job %s failed", job.id)
            job.error, job.state = "the service failed; see its log", "failed"
        else:
            job.result = {
                "added": report.added,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "duplicates": report.duplicates,
                "removed": report.removed,
                "unreadable": len(report.bad),
            }
            job.state = "done"

    def _index(self, job: IndexJob) -> IngestReport:
        resolved = resolve_uris(job.folders)
        sources = open_sources(resolved, within=self.folders)
        check_filled(resolved, sources)
        embedder, writes = _Embedder(self._model), self._model.predictor.has_decoder
        return ingest(
            sources,
            embedder,
            job.served.collection,
            captioner=embedder.caption if job.captions and writes else None,
            text_reader=self._text_reader,
            bad_log=BadImageLog(None, MAX_BAD_FRACTION),
            progress=_Progress(job),
            batch_size=self._batch_size,
        )


class _CancelledError(Exception):
    """Ends the indexing of a cancelled job."""


@dataclass(frozen=True)
class _Progress:
    """Progress maker that updates a job, and ends it if it is cancelled."""

    job: IndexJob

    @contextmanager
    def __call__(self, title: str, total: int | None) -> Iterator[Bar]:
        self.job.step, self.job.done, self.job.total = title, 0, total
        yield self

    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        self.job.done += count
        if self.job.cancelled.is_set():
            raise _CancelledError


@dataclass(frozen=True)
class _Embedder:
    """Embedder of `ingest` that holds the model for one batch at a time, so that queries pass."""

    model: ServedModel

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def embed_dim(self) -> int:
        return self.model.embed_dim

    def prepare_image(self, image: Any) -> Any:
        return self.model.predictor.prepare_image(image)

    def embed_prepared(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        with self.model.exclusive() as predictor:
            return predictor.embed_prepared(images)

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        with self.model.exclusive() as predictor:
            return predictor.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        with self.model.exclusive() as predictor:
            return predictor.embed_texts(texts)

    def caption(self, images: Sequence[bytes]) -> list[str]:
        with self.model.exclusive() as predictor:
            return [caption.text for caption in predictor.caption(images)]
