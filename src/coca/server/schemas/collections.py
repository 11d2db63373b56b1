"""Bodies of `/v1/collections` and `/v1/jobs`."""

from typing import Annotated, Literal

from pydantic import Field

from coca.server.schemas.shared import (
    Body,
    CollectionName,
)


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


class Encoding(Body):
    """Form in which a collection stores vectors."""

    dimensions: int
    """Number of stored dimensions."""
    projection: Literal["truncate", "pca"]
    precision: Literal["float32", "int8", "binary"]


class CalibrationSummary(Body):
    """Calibration of match probabilities."""

    threshold: float
    """A hit matches if its probability is above this one."""
    false_alarms: float
    """Maximum rate of texts that match nothing and have a hit above the threshold."""
    found: float
    """Rate of held-out captions that found their own image above the threshold."""
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
    full_text: bool
    """Whether captions are ranked by BM25 in Milvus."""
    encoding: Encoding
    calibration: CalibrationSummary | None
    """Null if hits have no match probability."""


class CollectionList(Body):
    """Collections that the key may use; the first one is the default."""

    collections: list[CollectionDescription]
    writable: bool
    """Whether the key may add, change and delete items."""
