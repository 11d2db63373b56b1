"""The promises of the program (tests/promises.py), in each state that people are in.

A state changes a home, photos in a folder that the default model indexed without captions, or how
commands run there. The promises are the same in all of them. A command may refuse what is
impossible in a state, such as writing to a full disk, with one sentence that names the cause; what
was there before stays. The newest libraries are those of this environment.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from limited_disk import limited_disk
from promises import Home, ask_all, write_home
from server_process import ServerProcess, serving

pytestmark = pytest.mark.slow

DISK_MB, GREEDY_THREADS = 24, 20

WITHOUT_TORCH = """
import importlib.machinery, sys
Finder = importlib.machinery.PathFinder
class Others(Finder):
    find_spec = lambda name, *more: None if name == "torch" else Finder.find_spec(name, *more)
sys.meta_path[sys.meta_path.index(Finder)] = Others
from coca.cli.app import main
main()
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home before it is indexed."""
    return write_home(tmp_path_factory.mktemp("template") / "home")


@contextmanager
def few_captions(home: Home, _: Path) -> Iterator[Home]:
    others = sorted(home.records().keys() - set(home.dogs))
    texts = {"Grandma knitting": others[0], "Our trip to Rome": others[1]}
    for text, name in texts.items():
        home.edit(name, text)
    yield replace(home, texts=texts)


@contextmanager
def wrong_tag(home: Home, _: Path) -> Iterator[Home]:
    wrong = min(home.records().keys() - set(home.dogs))
    home.edit(wrong, "tags=dog")
    yield replace(home, wrong=[wrong])


@contextmanager
def another_editor(home: Home, _: Path) -> Iterator[Home]:
    """A second process edits captions of other photos as long as the state lasts."""
    (last,) = sorted(home.records().keys() - set(home.dogs))[-1:]
    loop = f'while true; do "$0" -m coca caption "photos/{last}" --set "edit $((n+=1))"; done'
    editor = subprocess.Popen(
        ["bash", "-c", loop, sys.executable],
        cwd=home.folder,
        env=os.environ | {"COCA_URI": "home.db"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield home
    finally:
        os.killpg(editor.pid, 9)
        editor.wait()


@contextmanager
def beside_a_service(home: Home, folder: Path) -> Iterator[Home]:
    with serving("--uri", str(home.folder / "home.db"), cache=folder / "cache"):
        yield home


@dataclass(frozen=True)
class ServedHome(Home):
    """A home that one key searches and edits by the service; `coca index` writes next to it."""

    service: ServerProcess | None = None
    key: str = ""

    def send(self, method: str, target: str, body: Any) -> Any:
        assert self.service is not None
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        answer = self.service.request(method, target, json.dumps(body).encode(), headers)
        assert answer.status == 200, answer.body
        return answer.json()

    def search(self, text: str, *options: str) -> list[dict[str, Any]]:
        limit = int(options[options.index("-k") + 1]) if "-k" in options else 10
        return list(self.send("POST", "/v1/search", {"text": text, "limit": limit})["hits"])

    def edit(self, name: str, value: str) -> bool:
        tags = value.removeprefix("tags=")
        change = {"tags": [tags]} if tags != value else {"caption": value}
        self.send("PATCH", f"/v1/items/{self.records()[name]['id']}", change)
        return True


@contextmanager
def one_greedy_key(home: Home, folder: Path) -> Iterator[Home]:
    """Another key asks for captions, searches and thumbnails in as many threads as it may."""
    keys = {name * 32: {"name": name, "writable": name == "a"} for name in "ab"}
    (folder / "keys.json").write_text(json.dumps(keys))
    options = ("--uri", str(home.folder / "home.db"), "--show-paths")
    with serving(*options, "--keys", str(folder / "keys.json"), cache=folder / "cache") as service:
        anna, greedy = (ServedHome(**vars(home), service=service, key=name * 32) for name in "ab")
        ids, ended, answers = [hit["id"] for hit in anna.search("thing")], Event(), []

        def ask() -> None:
            while not ended.is_set():
                answers.append(len(greedy.search("a photo of a thing", "-k", "100")))
                answers.append(len(greedy.send("POST", "/v1/caption", {"id": ids[0]})))

        threads = [Thread(target=ask) for _ in range(GREEDY_THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield anna
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert len(answers) > 2 * GREEDY_THREADS


@contextmanager
def full_disk(home: Home, folder: Path) -> Iterator[Home]:
    with limited_disk(folder, kind="tmpfs", size_mb=DISK_MB) as disk:
        full = replace(home, folder=disk.folder / "home", refused="is full")
        shutil.copytree(home.folder, full.folder)
        full.run("index", "photos", "--no-captions", "--prune", "--yes")
        disk.fill()
        yield full


@contextmanager
def photo_of_100_megapixels(home: Home, _: Path) -> Iterator[Home]:
    Image.new("RGB", (12_000, 8_400), "navy").save(home.folder / "photos" / "large.jpg")
    home.run("index", "photos", "--no-captions")
    assert "large.jpg" in home.records()
    yield home


@contextmanager
def no_network(home: Home, _: Path) -> Iterator[Home]:
    isolated = ("unshare", "--map-root-user", "--net")
    if not shutil.which("unshare") or subprocess.run([*isolated, "true"], check=False).returncode:
        pytest.skip("a process without a network is not allowed here")
    yield replace(home, before=(*isolated, sys.executable, "-m", "coca"))


@contextmanager
def no_torch(home: Home, _: Path) -> Iterator[Home]:
    yield replace(home, before=(sys.executable, "-c", WITHOUT_TORCH))


@contextmanager
def folder_renamed(home: Home, _: Path) -> Iterator[Home]:
    (home.folder / "photos").rename(home.folder / "pictures")
    home.run("index", "pictures", "--no-captions", "--prune", "--yes")
    yield replace(home, photos="pictures")


@contextmanager
def clock_set_back(home: Home, _: Path) -> Iterator[Home]:
    """Clocks of commands are a year late, also behind all files."""
    code = (
        "import time; now, ns = time.time, time.time_ns; year = 365 * 86_400;"
        "time.time = lambda: now() - year; time.time_ns = lambda: ns() - year * 10**9;"
        "from coca.cli.app import main; main()"
    )
    yield replace(home, before=(sys.executable, "-c", code))


State = Callable[[Home, Path], AbstractContextManager[Home]]
STATES: list[State] = [
    few_captions,
    wrong_tag,
    another_editor,
    beside_a_service,
    one_greedy_key,
    full_disk,
    photo_of_100_megapixels,
    no_network,
    no_torch,
    folder_renamed,
    clock_set_back,
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: str(state.__name__))
def test_the_promises_are_kept(state: State, template: Home, tmp_path: Path) -> None:
    home = replace(template, folder=tmp_path / "home")
    shutil.copytree(template.folder, home.folder)
    home.run("index", "photos", "--no-captions")
    with state(home, tmp_path) as changed:
        ask_all(changed)
