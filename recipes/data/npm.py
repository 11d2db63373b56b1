"""Installation of data packages by npm."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from coca.core.errors import ConfigError, StorageError


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
