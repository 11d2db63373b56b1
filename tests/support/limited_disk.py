"""A small file system of its own, which a test can fill."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_CHUNK = 1 << 20


@dataclass(frozen=True)
class LimitedDisk:
    """A mounted file system."""

    folder: Path
    """The folder that it is mounted at."""

    @property
    def free(self) -> int:
        """Free space, in bytes."""
        return shutil.disk_usage(self.folder).free

    @property
    def filler(self) -> Path:
        return self.folder / "filler"

    def fill(self, *, leave: int = 0) -> None:
        """Fill the disk but for `leave` bytes."""
        with self.filler.open("ab", buffering=0) as file:
            while (rest := self.free - leave) > 0:
                try:
                    file.write(bytes(min(rest, _CHUNK)))
                except OSError:
                    break
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Free what `fill` took."""
        self.filler.unlink()

    def lock(self, mode: str = "ro") -> None:
        """Let nobody write to the disk, or everybody by `rw`."""
        _run(["mount", "-o", f"remount,{mode}", str(self.folder)])


@contextmanager
def limited_disk(root: Path, *, kind: str, size_mb: int) -> Iterator[LimitedDisk]:
    """Mount a file system of a size, in memory (`tmpfs`) or in a file (`ext4`).

    The test is skipped where mounting is not allowed.
    """
    folder = root / f"disk-{kind}"
    folder.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    else:
        image = root / "disk.img"
        with image.open("wb") as file:
            file.truncate(size_mb << 20)
        _run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)])
        command = ["mount", "-o", "loop", str(image), str(folder)]
    _run(command)
    try:
        yield LimitedDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _run(command: list[str]) -> None:
    if (found := shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is None:
        pytest.skip(f"there is no {command[0]}")
    done = subprocess.run([found, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{command[0]} is not allowed here: {done.stderr.strip()}")
