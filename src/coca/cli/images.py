"""Pictures named on a command line: patterns and folders opened up, bad ones told apart."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer

from coca.cli.console import Console
from coca.core.errors import ConfigError, DataError
from coca.core.formats import VIDEO_SUFFIXES
from coca.core.heif import PHOTO_SUFFIXES
from coca.core.progress import ProgressMaker

T = TypeVar("T")

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="Pictures, videos, folders of images, or quoted patterns."),
]


@dataclass(frozen=True)
class Bad:
    """An image that could not be used."""

    path: str
    error: str
    """A sentence."""

    def to_json(self) -> dict[str, Any]:
        """Its entry in a result."""
        return {"path": self.path, "error": self.error}


def find(given: Sequence[str], *, videos: bool = False) -> list[str]:
    """The images that files, folders and patterns stand for, each once, in the order given.

    A name that fits nothing is kept, so that it is told with the images that cannot be read.

    Args:
        given: Names from the command line.
        videos: Take the videos of folders as well.

    Raises:
        ConfigError: Only folders without an image are given, or an archive.
    """
    suffixes = PHOTO_SUFFIXES | VIDEO_SUFFIXES if videos else PHOTO_SUFFIXES
    found = dict.fromkeys(path for name in given for path in _expanded(name, suffixes))
    for path in found:
        if path.lower().endswith(_ARCHIVES):
            raise ConfigError(
                f"{path} is an archive, and here images and folders are read: unpack it, or "
                f"`coca index {path}` to search in it"
            )
    if given and not found:
        raise ConfigError(f"there is no image in {', '.join(given)}")
    return list(found)


def work_through(
    paths: Sequence[str],
    work: Callable[[Sequence[str]], Sequence[T]],
    *,
    batch_size: int,
    title: str,
    progress: ProgressMaker,
) -> list[T | Bad]:
    """The outcome for each image; those that cannot be read do not stop the others.

    Args:
        paths: The images.
        work: Gives an outcome for each of some images, or raises DataError for one of them.
        batch_size: How many to hand to `work` at once.
        title: What the progress is called.
        progress: Shows how far it is.
    """
    outcomes: list[T | Bad] = []
    with progress(title, len(paths)) as bar:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            outcomes += _worked(batch, work)
            bar.advance(len(batch))
    return outcomes


def tell(
    console: Console,
    paths: Sequence[str],
    outcomes: Sequence[T | Bad],
    *,
    columns: Sequence[str],
    rows: Callable[[str, T], Sequence[Sequence[str]]],
    entry: Callable[[T], dict[str, Any]],
    right: Sequence[str] = (),
) -> None:
    """Give what became of each image, and end the command as `end_with` does.

    Args:
        console: The voice of the command.
        paths: The images.
        outcomes: From `work_through`.
        columns: Heads of the table for people.
        rows: Rows of that table for an image's path and outcome.
        entry: What machines read of an outcome, beside the path.
        right: Columns of numbers.
    """
    lines: list[Sequence[str]] = []
    entries: list[dict[str, Any]] = []
    for path, outcome in zip(paths, outcomes, strict=True):
        if isinstance(outcome, Bad):
            entries.append(outcome.to_json())
        else:
            entries.append({"path": path, **entry(outcome)})
            lines += rows(path, outcome)
    if lines:
        console.table(columns, lines, right=right)
    console.emit(entries)
    end_with(console, outcomes)


def end_with(console: Console, outcomes: Sequence[Any]) -> None:
    """Tell what could not be used, and fail if anything could not.

    Raises:
        Exit: Some image is bad.
    """
    bad = [outcome for outcome in outcomes if isinstance(outcome, Bad)]
    for one in bad:
        console.complain(one.error)
    if bad:
        raise typer.Exit(1)


def _expanded(name: str, suffixes: Set[str]) -> Iterator[str]:
    if os.path.isdir(name):
        yield from _within(name, suffixes)
    elif os.path.lexists(name) or not glob.has_magic(name):
        yield name
    else:
        # The shell leaves a pattern alone if it stands in quotes, or on Windows always.
        matches = sorted(glob.glob(name, recursive=True))
        for match in matches:
            yield from _within(match, suffixes) if os.path.isdir(match) else [match]
        if not matches:
            yield name


def _within(top: str, suffixes: Set[str]) -> Iterator[str]:
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield os.path.join(folder, name)


def _worked(
    batch: Sequence[str], work: Callable[[Sequence[str]], Sequence[T]]
) -> Sequence[T | Bad]:
    try:
        return work(batch)
    except DataError as error:
        cause = error
        # Some image is bad. Each is read once more, alone, to tell which.
        faults = {path: fault for path in batch if (fault := _fault(path)) is not None}
    if not faults:
        # All can be read, but not by this work, such as a video: each is tried alone.
        alone = [_alone(path, work) for path in batch]
        if all(one == Bad(path, str(cause)) for path, one in zip(batch, alone, strict=True)):
            # The same of each: no image is the cause.
            raise cause
        return alone
    good = [path for path in batch if path not in faults]
    outcomes = iter(_worked(good, work) if good else [])
    return [faults[path] if path in faults else next(outcomes) for path in batch]


def _alone(path: str, work: Callable[[Sequence[str]], Sequence[T]]) -> T | Bad:
    try:
        return work([path])[0]
    except DataError as error:
        return Bad(path, str(error))


def _fault(path: str) -> Bad | None:
    from coca.inference.video import FRAMES, is_video
    from coca.processing.image import decode
    from coca.processing.video import sample_frames

    if glob.has_magic(path) and not os.path.lexists(path):
        return Bad(path, f"no file fits the pattern {path}")
    try:
        if is_video(path):
            sample_frames(path, FRAMES)
        else:
            decode(path)
    except DataError as error:
        return Bad(path, str(error))
    return None
