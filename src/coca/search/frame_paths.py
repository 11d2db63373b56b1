"""Paths and stamps of video frames: `film.mp4#t=12.5` is the frame at 12.5 seconds."""

import re

from coca.search.source_entries import claims_in

_MOMENT = re.compile(r"#t=\d+(\.\d+)?$")
_EVERY = re.compile(r"/([\d.e+-]+|inf)s[+?]*$")


def series_path(entry: str, seconds: float) -> str:
    """The path of an image in a series: `film.mp4#t=12.5`, as links to a moment are written."""
    return f"{entry}#t={seconds:.3f}".rstrip("0").rstrip(".")


def series_stamp(stamp: str, every_s: float) -> str:
    """The stamp of a series: that of its file, and the seconds from one image to the next."""
    return f"{stamp}/{every_s:g}s"


def every_of(stamp: str) -> float | None:
    """The seconds from one image of a series to the next; None for any other stamp."""
    every = _EVERY.search(stamp)
    return float(every[1]) if every else None


def series_of(path: str, stamps: str) -> str:
    """The entry that a path of a series belongs to; any other path stays as it is.

    Args:
        path: Of an image. Keys of tars and tables may look like moments of a video as well.
        stamps: Of the path; they tell whether it is one.
    """
    if any(every_of(stamp) is not None for stamp in claims_in(stamps)):
        return _MOMENT.sub("", path)
    return path
