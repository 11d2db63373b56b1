"""Optional dependencies, imported only where they are needed, and data packages of npm."""

import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from coca.core.errors import ConfigError, MissingExtraError, StorageError

# Optional dependencies, imported only where they are needed.


@contextmanager
def extra_imports(package: str, *, extra: str) -> Iterator[None]:
    """Raise an error with the pip command if an import within the block misses the package."""
    try:
        yield
    except ModuleNotFoundError as error:
        # An installed package that lacks one of its own dependencies is a different error, whose
        # message names the missing module.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(package, extra) from error


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or raise an error with the pip command that installs it."""
    with extra_imports(module.partition(".")[0], extra=extra):
        return importlib.import_module(module)


def require_installed(module: str, *, extra: str) -> None:
    """Raise the error of `require` if a module is missing, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(module, extra)


# Installation of data packages by npm.


@contextmanager
def npm_packages(packages: Sequence[str], folder: Path | None = None) -> Iterator[Path]:
    """Yield a `node_modules` folder with packages of npm, whose scripts are not run."""
    if folder is not None:
        yield folder
        return
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"npm is needed to fetch {', '.join(packages)} and is not installed; install Node.js, "
            "or specify a node_modules folder that contains them with --packages"
        )
    with TemporaryDirectory() as home:
        command = [npm, "install", "--prefix", home, "--no-save", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*command, "--ignore-scripts", *packages], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip() or "it gave no reason").splitlines()[-1]
            raise StorageError(f"npm could not install {', '.join(packages)}: {last}")
        yield Path(home) / "node_modules"
