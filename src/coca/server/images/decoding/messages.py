"""Messages between the service and a decoder process: a small JSON object and bytes, in a pipe.

Neither side unpickles anything: a decoder that an image has taken over can only send pixels.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

_LENGTHS = struct.Struct(">IQ")
MAX_HEADER_BYTES = 1 << 20
"""Room for the metadata of an image, whose texts are cut by `coca.search.ingest.photo_metadata`."""


class BrokenMessageError(Exception):
    """The other side ended, or sent what is not a message."""


def send(pipe: int, header: Mapping[str, Any], payload: Any = b"") -> None:
    """Write a message."""
    encoded = json.dumps(header).encode()
    # Empty arrays cannot be cast.
    content = memoryview(payload).cast("B") if len(payload) else memoryview(b"")
    for rest in (memoryview(_LENGTHS.pack(len(encoded), len(content)) + encoded), content):
        while rest:
            rest = rest[os.write(pipe, rest) :]


def receive(
    pipe: int, payload_size: Callable[[dict[str, Any]], int]
) -> tuple[dict[str, Any], bytearray]:
    """Read a message."""
    header_bytes, payload_bytes = _LENGTHS.unpack(_read(pipe, _LENGTHS.size))
    if header_bytes > MAX_HEADER_BYTES:
        raise BrokenMessageError(f"a header of {header_bytes:,} bytes")
    try:
        header = json.loads(_read(pipe, header_bytes))
        if not isinstance(header, dict) or payload_bytes != payload_size(header):
            raise BrokenMessageError(f"a payload of {payload_bytes:,} bytes")
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenMessageError("a malformed header") from error
    return header, _read(pipe, payload_bytes)


def _read(pipe: int, size: int) -> bytearray:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        count = os.readv(pipe, [rest])
        if not count:
            raise BrokenMessageError("the pipe ended")
        rest = rest[count:]
    return content
