"""Settings of the service: address, limits, batching and folders."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from coca.core.config.frozen_config import Config


class ServerSettings(Config):
    """Settings of the service; `coca serve` has an option for each but times and queues."""

    host: str = "127.0.0.1"
    """Address to listen on. Another address than loopback requires keys."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """TCP port; 0 chooses a free port."""
    max_batch: Annotated[int, Field(ge=1)] = 32
    """Maximum number of texts or images of one batch; 1 switches batching off."""
    batch_wait_ms: Annotated[float, Field(ge=0, le=1_000)] = 2.0
    """Maximum time that the first query of a batch waits for further queries, in milliseconds; it
    does not wait after a batch of one query."""
    queue_size: Annotated[int, Field(ge=1)] = 512
    """Maximum number of waiting texts or images; further requests get status 503."""
    max_body_mb: Annotated[float, Field(gt=0)] = 48.0
    """Maximum size of a request body, in MB; a larger body gets status 413. A body without images
    may have 1 MB."""
    max_bodies_mb: Annotated[float, Field(gt=0)] = 192.0
    """Maximum size of all request bodies above 64 KB that are in progress, in MB; a further body
    gets status 503. A request with an image takes three times the size of its body."""
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    """Maximum number of decoded pixels of an image. JPEG files of up to 400 million are decoded at
    reduced scale."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Maximum time for a request body, and for each further MB of it, in seconds; a slower body
    gets status 408. A client that reads nothing of its response for as long is disconnected."""
    header_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Maximum time until the header of a request is complete, in seconds; then the connection is
    closed."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Maximum time for the work of a request, in seconds; then it gets status 503. The work also
    ends when the client leaves."""
    shutdown_timeout_s: Annotated[int, Field(ge=1)] = 8
    """Maximum time for requests in progress when the service is stopped, in seconds; those that are
    not answered after half of it get status 503."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Maximum time to decode an image, in seconds; a slower image gets status 422. 50 million
    pixels take 1 to 10 on a busy machine."""
    show_paths: bool = False
    """Report the paths of files, and let filters compare them, to all keys."""
    ocr: bool = False
    """Read the text inside images (OCR) of uploads, which searches find by its words (extra `ocr`).
    A page takes 3 to 4 seconds of a processor."""
    audit_log: Path | None = None
    """File to which a JSON line for each change is appended. Default: with keys, the log of the
    command."""
    thumbnails: Path | None = None
    """Folder of the thumbnail cache. Default: thumbnails in the user's cache folder."""
    uploads: Path | None = None
    """Folder that keeps uploaded images. Default: the URI with `.uploads` appended."""
