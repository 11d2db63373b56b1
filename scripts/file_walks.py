"""Count the files of the package that three commands and a warm request pass.

python scripts/file_walks.py FOLDER             # index six images twice, search them
python scripts/file_walks.py FOLDER --files     # the names of the files, in the order of calls

A file is passed if one of its functions runs, in any thread; imports do not count. A climb is a
call from a file of a package to one of a package on a higher layer.
"""

import argparse
import inspect
import os
import re
import shutil
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import coca

ROOT = str(Path(coca.__file__).parent) + os.sep
CLONE = Path(__file__).parents[1]


def heights() -> dict[str, int]:
    """Read the height of the layer of each package from pyproject.toml."""
    settings = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == ["coca"])
    return {
        package: height
        for height, layer in enumerate(reversed(layers))
        for package in re.findall(r"\w+", layer)
    }


HEIGHT = heights()


class Walk:
    """Files passed, and climbs between layers, while the walk is recorded."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.climbs = 0
        self.ended = False

    def record(self, action: Callable[[], object]) -> None:
        """Run an action with a profiler in this thread, and in all threads that begin meanwhile."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            action()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.ended or event != "call" or not _is_function(frame):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(ROOT):
            caller = caller.f_back
        if caller is not None and not _is_function(caller):
            return  # A decorator or a default, evaluated by an import.
        name = frame.f_code.co_filename.removeprefix(ROOT)
        self.files.setdefault(name)
        if caller is not None:
            self.climbs += _height(name) > _height(caller.f_code.co_filename.removeprefix(ROOT))


def _is_function(frame: FrameType) -> bool:
    """Return whether a frame is of a function of the package, not of a module or class body."""
    in_package = frame.f_code.co_filename.startswith(ROOT)
    return in_package and bool(frame.f_code.co_flags & inspect.CO_NEWLOCALS)


def _height(name: str) -> int:
    return HEIGHT.get(name.partition(os.sep)[0], 0)


def command(*arguments: str) -> Callable[[], None]:
    """Return an action that runs `coca` with arguments in this process, without its output."""
    from coca.cli.app import main

    def run() -> None:
        sys.argv = ["coca", *arguments]
        with redirect_stdout(TextIOWrapper(BytesIO())):
            try:
                main()
            except SystemExit as stop:
                if stop.code:
                    raise

    return run


def request(uri: str) -> Walk:
    """Record the second of two equal requests to a service."""
    from fastapi.testclient import TestClient

    from coca.server.app import create_app
    from coca.server.service import open_service
    from coca.server.settings import ServerSettings

    walk, settings = Walk(), ServerSettings()

    def serve() -> None:
        with open_service(uri, ["pictures"], settings) as service:
            app = create_app(service, settings)
            with TestClient(app, base_url="http://127.0.0.1") as client:
                for _ in range(2):
                    # Its threads begin here, so that they are recorded; the cold request is not.
                    walk.files.clear()
                    walk.climbs = 0
                    client.post("/v1/search", json={"text": "red car"}).raise_for_status()
                # Closing the service is not a part of the request.
                walk.ended = True

    walk.record(serve)
    return walk


def main() -> None:
    """Index six images twice, search them by the command and a request, and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument("--files", action="store_true", help="print the names of the files")
    arguments = parser.parse_args()
    images = [path for path in sorted(arguments.folder.rglob("*")) if path.suffix in SUFFIXES]
    with tempfile.TemporaryDirectory() as scratch:
        folder, uri = Path(scratch) / "images", str(Path(scratch) / "images.db")
        folder.mkdir()
        for path in islice(images, 6):
            shutil.copy(path, folder)
        commands = {
            "coca index": command("index", str(folder), "--uri", uri),
            "coca index, unchanged": command("index", str(folder), "--uri", uri),
            "coca search": command("search", "red car", "--uri", uri),
        }
        walks = {name: Walk() for name in commands}
        for name, run in commands.items():
            walks[name].record(run)
        walks["POST /v1/search"] = request(uri)
    for name, walk in walks.items():
        sys.stdout.write(f"{name}: {len(walk.files)} files, {walk.climbs} climbs\n")
        if arguments.files:
            sys.stdout.write("".join(f"  {file}\n" for file in walk.files))


SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

if __name__ == "__main__":
    main()
