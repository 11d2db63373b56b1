"""Images of requests: data URIs and decoded images.

Dimensions: S side of the model's input (pixels).
"""

import base64
import binascii
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from coca.core.errors import ConfigError
from coca.search.ingest.photo_metadata import Annotation

# Encoded images of requests: data URIs and media types.


_MAX_HEAD = 256
"""Maximum length of what precedes the data, in characters."""
_PART = 4 << 20
"""Number of characters that are decoded at once, a multiple of 4."""
_DATA_URI = re.compile(r"data:([\w.+/-]*)(?:;[\w.+-]+=[\w.+-]+)*(;base64)?,", re.ASCII)


def read_data_uri(uri: str | bytes) -> bytes:
    """Decode a data URI, or plain base64, to bytes; the file of a form is decoded already."""
    if isinstance(uri, bytes):
        return uri
    # The time and memory for the parameters of a media type grow with their number.
    if found := _DATA_URI.match(uri, 0, _MAX_HEAD):
        if not found[2]:
            raise ConfigError("a data URI must be base64: data:image/png;base64,...")
        uri = uri[found.end() :]
    elif "://" in uri[:32]:
        raise ConfigError(
            f"an image must be a data URI such as data:image/png;base64,..., got {uri[:60]!r}; "
            "this service fetches no URLs"
        )
    try:
        # In parts, since nothing else runs while a part is decoded.
        parts = (uri[start : start + _PART] for start in range(0, len(uri), _PART))
        return b"".join(base64.b64decode(part, validate=True) for part in parts)
    except (binascii.Error, ValueError):
        raise ConfigError(
            f"an image must be a data URI such as data:image/png;base64,..., got {uri[:40]!r}"
        ) from None


# Decoded images of requests.


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image at the model's input size."""

    square: UInt8[np.ndarray, "H W 3"]
    """Pixels as the processor of the model resizes them, 0 to 255."""
    width: int
    """Width of the upright image, in pixels."""
    height: int
    perceptual_hash: bytes
    annotation: Annotation
    """What the file carries besides the pixels."""
