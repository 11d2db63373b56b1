"""Paths and etags of video frames: `film.mp4#t=12.5` is the frame at 12.5 seconds."""

import re

from coca.search.source_entries import split_source_entries

_MOMENT = re.compile(r"#t=\d+(\.\d+)?$")
_INTERVAL = re.compile(r"/([\d.e+-]+|inf)s[+?]*$")


def series_path(entry: str, seconds: float) -> str:
    """Build the path of a frame: `film.mp4#t=12.5`, as media fragment URIs are written."""
    return f"{entry}#t={seconds:.3f}".rstrip("0").rstrip(".")


def series_etag(etag: str, frame_interval_s: float) -> str:
    """Build the etag of a frame series: that of its file, and the seconds between frames."""
    return f"{etag}/{frame_interval_s:g}s"


def frame_interval_of(etag: str) -> float | None:
    """Return the seconds between frames of a series; None for any other etag."""
    interval = _INTERVAL.search(etag)
    return float(interval[1]) if interval else None


def series_of(path: str, etags: str) -> str:
    """Return the file of a frame's path; return any other path unchanged.

    Args:
        path: Path of an image. Keys of tars and tables may look like frame paths as well.
        etags: Etags of the path; they determine whether it is a frame path.
    """
    if any(frame_interval_of(etag) is not None for etag in split_source_entries(etags)):
        return _MOMENT.sub("", path)
    return path
