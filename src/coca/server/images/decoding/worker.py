"""Decoder process: reads images from a pipe, and answers with pixels or a thumbnail.

It imports no torch, so that it starts in a fraction of a second. Before the first image it gives up
what a decoder does not need: memory above a limit, opening of files and sockets, writing of files.
"""

import importlib
import io
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from coca.core.errors import DataError
from coca.core.files.formats import has_heif, has_raw, register_heif
from coca.processing.image_file import read_image
from coca.processing.preprocess import ImageSettings
from coca.search.ingest.photo_metadata import read_header
from coca.search.perceptual_hash import perceptual_hash
from coca.server.images.decoding.messages import BrokenMessageError, receive, send
from coca.server.images.decoding.model_input import model_input
from coca.server.images.decoding.torch_resize import resize_columns

THUMBNAIL_QUALITY = 82
_ORPHAN_S = 5.0
"""Time after which the process ends itself if the service has not ended it, in seconds."""


def main() -> None:
    """Answer messages until the service closes the pipe.

    The arguments of the process are the maximum number of bytes of memory, and of seconds for an
    image.
    """
    max_memory, timeout_s = map(int, sys.argv[1:])
    requests = os.dup(0)
    answers = os.dup(1)
    # Ctrl-C in a terminal reaches the whole process group; the service ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _load_decoders()
    _limit(resource.RLIMIT_AS, max_memory)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    send(answers, {"ready": True})
    _silence()
    _limit(resource.RLIMIT_NOFILE, 0)
    while True:
        try:
            request, data = receive(requests, lambda header: int(header["bytes"]))
        except BrokenMessageError:
            return
        # The kernel ends a process that hangs after its service was killed.
        signal.setitimer(signal.ITIMER_REAL, timeout_s + _ORPHAN_S)
        try:
            header, payload = _answer(request, bytes(data))
        except DataError as error:
            header, payload = {"error": str(error)[:1_000], "reason": error.reason}, b""
        except MemoryError:
            sentence = f"the image of {len(data):,} bytes needs too much memory"
            header, payload = {"error": sentence, "reason": "too_large"}, b""
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answers, header, payload)


def _answer(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
    settings = request.get("settings")
    image = read_image(data, max_pixels=request["max_pixels"], at_least=request["at_least"])
    if (side := request.get("side")) is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if request.get("jpeg"):
        stream = io.BytesIO()
        mean = image.resize((1, 1), Image.Resampling.BOX).tobytes()
        image.save(stream, "JPEG", quality=THUMBNAIL_QUALITY, comment=f"#{mean.hex()}")
        return {"bytes": stream.tell()}, stream.getbuffer()
    if settings is None:
        return {"rows": image.height, "columns": image.width}, np.asarray(image)
    square = model_input(image, ImageSettings(**settings))
    header = read_header(data)
    answer = {
        "rows": len(square),
        "columns": square.shape[1],
        "width": header.width,
        "height": header.height,
        "perceptual_hash": perceptual_hash(image).hex(),
        "annotation": asdict(header.annotation),
    }
    return answer, np.ascontiguousarray(square)


def _load_decoders() -> None:
    """Import all that an image may need, since files cannot be opened afterwards."""
    Image.init()
    for package, is_there in (("pillow_heif", has_heif()), ("rawpy", has_raw())):
        if is_there:
            importlib.import_module(package)
        else:
            # Else the import would look for files, and report that none can be opened.
            sys.modules[package] = None  # type: ignore[assignment]
    if has_heif():
        register_heif()
    with suppress(DataError):
        # The reader of raw photos imports modules at its first use.
        read_image(b"IIRO" + bytes(64))
    # The reader of Exif, and the conversion to JPEG, import modules at their first use.
    tiny = Image.new("RGB", (1, 1))
    for format in ("JPEG", "TIFF", "PNG", "WEBP", "AVIF", "GIF"):
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[0x0132] = "2024:05:31 18:30:00"
        tiny.save(stream, format, exif=exif)
        read_image(stream.getvalue())
        read_header(stream.getvalue())
    # Videos and sounds are not decoded here.
    sys.modules["av"] = None  # type: ignore[assignment]
    with suppress(DataError):
        # A file of no known format imports the decoders of plug-ins.
        read_image(b"no image")
    # NumPy starts its library of linear algebra at the first product.
    resize_columns(np.zeros((2, 1, 3), np.uint8), 1, "bilinear")


def _limit(kind: int, limit: int) -> None:
    _, most = resource.getrlimit(kind)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(kind, (limit, limit))


def _silence() -> None:
    """Discard the messages of native decoders, which untrusted images would cause."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)


if __name__ == "__main__":
    main()
