"""Image arguments of commands: patterns, folders and errors per file; and class names."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from coca.cli.console import Console
from coca.core.errors import ConfigError, DataError
from coca.core.files.formats import PHOTO_SUFFIXES, VIDEO_SUFFIXES
from coca.core.files.local_files import check_spaces, walk_files
from coca.core.progress import progress_bar

T = TypeVar("T")

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE", help="Images, videos, folders of images, or quoted glob patterns."
    ),
]

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Write the result to this file instead: .csv, .jsonl (JSON lines) or .parquet.",
    ),
]


@dataclass(frozen=True)
class Bad:
    """An image that failed, with its error."""

    path: str
    error: str
    """The error message, one sentence."""

    def to_json(self) -> dict[str, Any]:
        """Return its entry in the JSON result."""
        return {"path": self.path, "error": self.error}


def find(given: Sequence[str], *, videos: bool = False) -> list[str]:
    """Expand files, folders and glob patterns to paths, each once, in the order given.

    A name that matches nothing is kept, so that it is reported with the unreadable images.
    """
    check_spaces(given)
    suffixes = PHOTO_SUFFIXES | VIDEO_SUFFIXES if videos else PHOTO_SUFFIXES
    found = dict.fromkeys(path for name in given for path in _expanded(name, suffixes))
    for path in found:
        if path.lower().endswith(_ARCHIVES):
            raise ConfigError(
                f"{path} is an archive, and this command reads images and folders: unpack it, or "
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
) -> list[T | Bad]:
    """Process images in batches; unreadable images are reported and skipped.

    Returns:
        One outcome per image, or `Bad`.
    """
    outcomes: list[T | Bad] = []
    with progress_bar(title, len(paths)) as bar:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            outcomes += _worked(batch, work)
            bar.advance(len(batch))
    return outcomes


def find_words(given: Sequence[str]) -> list[str]:
    """Return the arguments that are words, since they are neither files nor look like ones."""
    return [
        word
        for word in given
        if not (os.path.lexists(word) or glob.has_magic(word) or os.path.splitext(word)[1])
        and os.sep not in word
    ]


def check_out(path: Path) -> None:
    """Check the value of `--out` before the model is loaded."""
    from coca.core.files.table_file import check_table_path

    check_table_path(path)


def print_outcomes(
    console: Console,
    paths: Sequence[str],
    outcomes: Sequence[T | Bad],
    *,
    columns: Sequence[str],
    rows: Callable[[str, T], Sequence[Sequence[str]]],
    entry: Callable[[T], dict[str, Any]],
    right: Sequence[str] = (),
    out: Path | None = None,
    records: Callable[[T], Sequence[dict[str, Any]]] = lambda outcome: (),
) -> None:
    """Print the outcome of each image as a table or as JSON, then call `end_with`.

    With `out`, the table is written to that file instead.
    """
    if out is not None:
        _write_outcomes(console, out, paths, outcomes, records)
    lines: list[Sequence[str]] = []
    entries: list[dict[str, Any]] = []
    for path, outcome in zip(paths, outcomes, strict=True):
        if isinstance(outcome, Bad):
            entries.append(outcome.to_json())
        else:
            entries.append({"path": path, **entry(outcome)})
            lines += rows(path, outcome)
    if lines and out is None:
        console.table(columns, lines, right=right)
    console.emit(entries)
    end_with(console, outcomes)


def _write_outcomes(
    console: Console,
    out: Path,
    paths: Sequence[str],
    outcomes: Sequence[T | Bad],
    records: Callable[[T], Sequence[dict[str, Any]]],
) -> None:
    from coca.core.files.table_file import write_table

    rows: list[dict[str, Any]] = []
    files = 0
    for path, outcome in zip(paths, outcomes, strict=True):
        if not isinstance(outcome, Bad):
            rows += [{"path": path, **record} for record in records(outcome)]
            files += 1
    if rows:
        write_table(out, {name: [row[name] for row in rows] for name in rows[0]})
        of = f"{files:,} files" if files > 1 else "one file"
        console.say(f"{len(rows):,} rows for {of} are in {out}")


def end_with(console: Console, outcomes: Sequence[Any]) -> None:
    """Print the errors of the images, and exit with code 1 if there are any."""
    bad = [outcome for outcome in outcomes if isinstance(outcome, Bad)]
    for one in bad:
        console.complain(one.error)
    if bad:
        raise typer.Exit(1)


def _expanded(name: str, suffixes: Set[str]) -> Iterator[str]:
    if os.path.isdir(name):
        yield from walk_files(name, suffixes)
    elif os.path.lexists(name) or not glob.has_magic(name):
        yield name
    else:
        # The shell does not expand a quoted pattern, and on Windows none.
        matches = sorted(glob.glob(name, recursive=True))
        for match in matches:
            yield from walk_files(match, suffixes) if os.path.isdir(match) else [match]
        if not matches:
            yield name


def _worked(
    batch: Sequence[str], work: Callable[[Sequence[str]], Sequence[T]]
) -> Sequence[T | Bad]:
    try:
        return work(batch)
    except DataError as error:
        cause = error
        # Some image is unreadable. Each is read again on its own, to find which.
        faults = {path: fault for path in batch if (fault := _fault(path)) is not None}
    if not faults:
        # All are readable, but not by this command, such as a video: each is tried on its own.
        alone = [_alone(path, work) for path in batch]
        if all(one == Bad(path, str(cause)) for path, one in zip(batch, alone, strict=True)):
            # All fail alike, so no single image is the cause.
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
    from coca.predict.video import FRAMES, is_video
    from coca.processing.image_file import read_image
    from coca.processing.video import sample_frames

    if glob.has_magic(path) and not os.path.lexists(path):
        return Bad(path, f"no file fits the pattern {path}")
    try:
        if is_video(path):
            sample_frames(path, FRAMES)
        else:
            read_image(path)
    except DataError as error:
        return Bad(path, str(error))
    return None


_TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".list", ".lst")


def read_names(listed: str) -> list[str]:
    """Read class names: one a line from the text file of that name if it exists, else `a,b,c`."""
    path = Path(listed)
    # A pipe is a file as well, such as that of `<(command)` in a shell.
    if listed and path.exists() and not path.is_dir():
        try:
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the labels in {path} cannot be read: {error}") from error
    elif "," not in listed and path.suffix.lower() in _TEXT_SUFFIXES:
        raise ConfigError(f"the file of labels {listed} does not exist")
    else:
        names = listed.split(",")
    return [name for line in names if (name := line.strip())]
