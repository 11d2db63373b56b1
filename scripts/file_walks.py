"""Count the functions of the package that five walks enter, and print the ways.

python scripts/file_walks.py FOLDER            # index six images twice, search them, train on them
python scripts/file_walks.py FOLDER --ways     # each file and its functions, in the order of calls
python scripts/file_walks.py --limits          # exit code 1 if a search enters more than its limit

The walks are `coca search`, a warm request of it, a new index, an unchanged index, and one training
step with its sample. A function with a name counts once, in any thread. Lambdas, generator
expressions and comprehensions are counted apart, as later versions of Python have no functions for
comprehensions. What imports call does not count. A climb is a call from a file of a package to one
of a package on a higher layer.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from PIL import Image

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
    """Functions entered, and climbs between layers, while the walk is recorded."""

    def __init__(self) -> None:
        self.functions: dict[str, dict[int, CodeType]] = {}
        """Files in the order of calls, with their functions in this order."""
        self.climbs = 0
        self.ended = False

    def start(self) -> None:
        """Forget what ran until now."""
        self.functions.clear()
        self.climbs = 0

    def count(self, *, named: bool) -> int:
        """Count the functions with a name, or those without."""
        codes = (code for file in self.functions.values() for code in file.values())
        return sum(code.co_name.startswith("<") is not named for code in codes)

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
        self.functions.setdefault(name, {}).setdefault(id(frame.f_code), frame.f_code)
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
                    walk.start()
                    client.post("/v1/search", json={"text": "red car"}).raise_for_status()
                # Closing the service is not a part of the request.
                walk.ended = True

    walk.record(serve)
    return walk


def training_step(images: Path, folder: Path) -> Walk:
    """Record the third step of a small run of `recipes/pretrain/flickr8k_coca.yaml`."""
    from coca.core.config.frozen_config import load_config
    from coca.core.progress import show_progress
    from coca.data.sample import Sample
    from coca.data.sources.tar.shards import ShardWriter
    from coca.workflows.training.pretrain import PretrainConfig, pretrain

    with ShardWriter(folder / "flickr8k", name="train") as writer:
        for number, path in enumerate(sorted(images.iterdir())):
            writer.write(Sample(path.stem, path.read_bytes(), (f"photo {number} of a thing",)))
    recipe = CLONE / "recipes" / "pretrain" / "flickr8k_coca.yaml"
    settings = [f"data_root={folder}", f"run={folder / 'run'}", *SMALL]
    config = load_config(PretrainConfig, recipe, overrides=settings)
    walk = Walk()

    class Steps:
        """Progress bar of the run."""

        done = 0

        def advance(self, count: int = 1, **figures: float | str) -> None:
            self.done += count
            if self.done == 2:
                walk.start()
            walk.ended = self.done >= 3

    @contextmanager
    def progress(title: str, total: int | None) -> Iterator[Steps]:
        bar = Steps()
        # Other bars of the run count tars and texts.
        bar.done = bar.done if title.startswith("training") else -1_000_000
        yield bar

    with show_progress(progress):
        walk.record(lambda: pretrain(config))
    return walk


def draw_noise(folder: Path) -> None:
    """Write six images."""
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def main() -> None:
    """Record the five walks, and print their counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of images; default: noise")
    parser.add_argument("--ways", action="store_true", help="print the files and functions")
    parser.add_argument("--limits", action="store_true", help="compare searches with their limits")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, uri = Path(scratch) / "images", str(Path(scratch) / "images.db")
        folder.mkdir()
        if arguments.folder is None:
            draw_noise(folder)
        else:
            paths = sorted(arguments.folder.rglob("*"))
            for path in islice((path for path in paths if path.suffix in SUFFIXES), 6):
                shutil.copy(path, folder)
        walks = {name: Walk() for name in ("new index", "unchanged index", "search")}
        walks["new index"].record(command("index", str(folder), "--uri", uri))
        walks["unchanged index"].record(command("index", str(folder), "--uri", uri))
        walks["search"].record(command("search", "red car", "--uri", uri))
        walks["warm request"] = request(uri)
        if not arguments.limits:
            walks["training step with its sample"] = training_step(folder, Path(scratch))
    for name, walk in walks.items():
        sys.stdout.write(
            f"{name}: {walk.count(named=True)} functions and {walk.count(named=False)} without a "
            f"name, {len(walk.functions)} files, {walk.climbs} climbs\n"
        )
        for file, functions in walk.functions.items() if arguments.ways else ():
            named = [it.co_qualname for it in functions.values() if not it.co_name.startswith("<")]
            sys.stdout.write(f"  {file}: {', '.join(named)}\n")
    if arguments.limits:
        above = [name for name, limit in LIMITS.items() if walks[name].count(named=True) > limit]
        for name in above:
            sys.stdout.write(f"{name} may enter {LIMITS[name]} functions: make its way shorter\n")
        sys.exit(bool(above))


LIMITS = {"search": 256, "warm request": 191}
"""Functions with a name: what was reached, and 3 %. A limit only falls."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SMALL = (
    *("device=cpu", "model.image.image_size=32", "model.image.width=32", "model.image.layers=1"),
    *("model.image.mlp_width=32", "model.text.width=32", "model.text.mlp_width=32"),
    *("model.text.unimodal_layers=1", "model.text.multimodal_layers=1", "model.embed_dim=32"),
    *("data.loader.batch_size=2", "data.loader.workers=0", "train.steps=4", "train.save_every=4"),
)
"""Overrides of the recipe, so that a step takes moments."""

if __name__ == "__main__":
    main()
