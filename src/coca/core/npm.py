"""Installation of data packages by npm."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from coca.core.errors import ConfigError, StorageError


def npm_install(folder: Path, packages: Sequence[str]) -> Path:
    """Install packages by npm without running their scripts; return the `node_modules` folder.

    Args:
        folder: Folder to install into.
        packages: Names with pinned versions, such as `emojibase-data@17.0.0`.

    Raises:
        ConfigError: npm is not installed.
        StorageError: npm fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"npm is needed to fetch {', '.join(packages)} and is not installed; install Node.js, "
            "or name a node_modules folder that holds them with --packages"
        )
    command = [npm, "install", "--prefix", str(folder), "--no-save", "--no-audit", "--no-fund"]
    done = subprocess.run(
        [*command, "--ignore-scripts", *packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise StorageError(f"npm could not install {', '.join(packages)}: {last}")
    return folder / "node_modules"
