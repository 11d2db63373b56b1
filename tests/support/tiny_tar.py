"""Small tars, written by the standard library."""

import io
import tarfile
from pathlib import Path

FILES = {
    "a.jpg": b"picture",
    "a.txt": b"one",
    "a.json": b"{}",
    "./deep/b.PNG": b"other",
    "deep/b.cls": b"7",
    "deep/b.seg.png": b"mask",
    "readme": b"?",
}


def make_tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    path.write_bytes(stream.getvalue())
    return stream.getvalue()
