"""Coverage-guided fuzzing of the readers of untrusted images and tars, by libFuzzer (atheris).

python tests/fuzz_untrusted.py runs/fuzz -max_total_time=300

The first byte of an input selects the reader: even bytes an image, odd bytes a tar. A reader
returns what its docstring promises or raises a `DataError`; libFuzzer reports any other exception,
and inputs that take too long or too much memory. `runs/fuzz` keeps the inputs that reach new code.
"""

import io
import logging
import sys
import warnings
from pathlib import Path

import atheris

READERS = ["tarfile", "PIL", "coca.processing", "coca.data"]

# Only modules that are first imported here are instrumented.
with atheris.instrument_imports(include=READERS):
    import tarfile

    from PIL import Image

    from coca.core.errors import DataError
    from coca.data.sources.tar.scan import scan_tar
    from coca.processing.image import decode

FORMS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
MAX_PIXELS = 1_000_000
LIMITS = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=65536"]
"""Seconds for an input, memory of the process, bytes of an input; the last of an option counts."""


def check(data: bytes) -> None:
    """Read one input, and check what is read or the error."""
    try:
        if data[:1] and data[0] % 2:
            check_tar(data[1:])
        else:
            check_image(data[1:])
        return
    except DataError as error:
        message = str(error)
    assert len(message.encode()) < 2000


def check_image(content: bytes) -> None:
    """Decode an image: three channels of at most the permitted number of pixels."""
    channels, height, width = decode(content, max_pixels=MAX_PIXELS).shape
    assert channels == 3
    assert 0 < height * width <= MAX_PIXELS


def check_tar(content: bytes) -> None:
    """Scan a tar: its members are inside it, and their contents are those of tarfile."""
    found = scan_tar(io.BytesIO(content), "x.tar")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        theirs = [entry for entry in tar if entry.isfile()]
    assert all(0 <= one.offset <= one.offset + one.size <= found.end for one in found.members)
    spans = {(one.name, one.offset, one.size) for one in found.members}
    assert {(entry.name, entry.offset_data, entry.size) for entry in theirs} <= spans


def write_corpus(folder: Path) -> None:
    """Write an image of each format and two tars, from which the fuzzer starts."""
    folder.mkdir(parents=True, exist_ok=True)
    for form in FORMS:
        for mode in ("RGB", "L"):
            stream = io.BytesIO()
            Image.linear_gradient("L").resize((8, 8)).convert(mode).save(stream, form)
            (folder / f"{form}-{mode}").write_bytes(b"\0" + stream.getvalue())
    for name, kind in (("ustar", tarfile.USTAR_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
            for member in ("a.png", "a.txt", "ü" * 40):
                entry = tarfile.TarInfo(member)
                entry.size = 3
                tar.addfile(entry, io.BytesIO(b"abc"))
        (folder / f"tar-{name}").write_bytes(b"\1" + stream.getvalue())


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    write_corpus(Path(sys.argv[1]))
    atheris.Setup([sys.argv[0], *LIMITS, f"-artifact_prefix={sys.argv[1]}/", *sys.argv[1:]], check)
    atheris.Fuzz()
