"""Option `--packages` of the commands that read npm packages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from coca.cli.console import Console

Packages: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--packages",
        help="A node_modules folder with the packages; default: npm downloads them.",
        show_default=False,
    ),
]


@contextmanager
def npm_packages(
    given: Path | None, install: Callable[[Path], Path], console: Console
) -> Iterator[Path]:
    """Yield the given `node_modules` folder, or install the packages for the duration of the block.

    Args:
        given: Value of `--packages`.
        install: Installs the packages into a folder, and returns its `node_modules` folder.
        console: Reports the download.
    """
    from tempfile import TemporaryDirectory

    if given is not None:
        yield given
        return
    with TemporaryDirectory() as folder:
        console.note("fetching the packages by npm")
        yield install(Path(folder))
