"""The promises of the program, in each state that people are in.

A state changes a home, photos in a folder that the default model indexed without captions, or how
commands run there. The promises are the same in all of them:

1. A search finds what photos show.
2. An edit that was acknowledged stays.
3. A photo that is added is found after the next index run, and nothing else changes.

A command may refuse what is impossible in a state, such as writing to a full disk, with one
sentence that names the cause; what was there before stays.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from coca.demo.run import write_photos
from limited_disk import limited_disk
from server_process import serving

pytestmark = pytest.mark.slow

DOGS, CARS = ("Old English sheepdog", "Bernese mountain dog", "Pomeranian"), ("sports car", "jeep")
OTHERS = ("pizza", "daisy", "goose", "canoe", "church", "espresso", "umbrella", "electric guitar")
ADDED = "jeep"
"""What the photo shows that is added."""
DISK_MB = 24

WITHOUT_TORCH = """
import importlib.machinery, sys
Finder = importlib.machinery.PathFinder
class Others(Finder):
    find_spec = lambda name, *more: None if name == "torch" else Finder.find_spec(name, *more)
sys.meta_path[sys.meta_path.index(Finder)] = Others
from coca.cli.app import main
main()
"""


@dataclass(frozen=True)
class Home:
    """A folder with `photos` and a SQLite file, and how commands run there."""

    folder: Path
    dogs: Sequence[str]
    """File names of the photos of dogs."""
    before: Sequence[str] = ()
    """What the command line begins with, in place of `python -m coca`."""
    environment: dict[str, str] = field(default_factory=dict)
    photos: str = "photos"
    """Name of the folder of photos."""
    refused: str = ""
    """Part of the sentence that refuses to write; empty: writing is possible."""
    wrong: Sequence[str] = ()
    """File names of photos that a search for a dog finds first for a reason of its own."""

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command in a process of its own, and return what it printed."""
        done = subprocess.run(
            [*(self.before or (sys.executable, "-m", "coca")), *words],
            cwd=self.folder,
            env=os.environ | {"COCA_URI": "home.db"} | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def search(self, *words: str) -> list[dict[str, Any]]:
        """Search, best hit first."""
        return list(json.loads(self.run("search", *words, "--json")))

    def write(self, *words: str) -> bool:
        """Run a command that writes; return whether it was acknowledged."""
        if not self.refused:
            self.run(*words)
            return True
        (line,) = self.run(*words, "--quiet", code=1).splitlines()
        assert self.refused in line, line
        return False

    def records(self) -> dict[str, dict[str, Any]]:
        """Return all hits by their file names."""
        return {Path(hit["path"]).name: hit for hit in self.search("thing", "-k", "100")}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home before it is indexed; the photo to add is next to the folder of photos."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "photos").mkdir()
    dogs, taken = [], dict.fromkeys((*DOGS, *CARS, *OTHERS), 0)
    for path, photo in write_photos(tmp_path_factory.mktemp("demo")):
        if taken.get(photo.shows, 2) < 2:
            is_added = photo.shows == ADDED and not taken[ADDED]
            target = folder / f"added{path.suffix}" if is_added else folder / "photos" / path.name
            shutil.copyfile(path, target)
            taken[photo.shows] += 1
            dogs += [path.name] if photo.shows in DOGS else []
    return Home(folder, dogs)


@contextmanager
def few_captions(home: Home, _: Path) -> Iterator[Home]:
    others = sorted(home.records().keys() - set(home.dogs))
    for name, text in zip(others, ("Grandma knitting", "Our trip to Rome"), strict=False):
        home.run("caption", f"photos/{name}", "--set", text)
    yield home


@contextmanager
def wrong_tag(home: Home, _: Path) -> Iterator[Home]:
    wrong = min(home.records().keys() - set(home.dogs))
    home.run("caption", f"photos/{wrong}", "--set", "tags=dog")
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
        a_search_finds_what_photos_show(changed)
        an_acknowledged_edit_stays(changed)
        an_added_photo_is_found_and_nothing_else_changes(changed)


def a_search_finds_what_photos_show(home: Home) -> None:
    hits = home.search("dog")
    names = [Path(hit["path"]).name for hit in hits]
    first = len(home.dogs) + len(home.wrong)
    assert set(home.dogs) <= set(names[:first])
    assert all(hit["likely"] for hit in hits[:first])
    reasons = [hit["reason"] for hit, name in zip(hits, names, strict=True) if name in home.wrong]
    assert reasons == ["tag: dog"] * len(home.wrong)


def an_acknowledged_edit_stays(home: Home) -> None:
    edited, *others = home.dogs
    captions = {name: home.records()[name]["caption"] for name in others}
    texts = ("our dog Rex", "our dog Bella", "tags=garden")
    written = [home.write("caption", f"{home.photos}/{edited}", "--set", it) for it in texts]
    records = home.records()
    assert written == [not home.refused] * 3
    assert records[edited]["caption"] == ("our dog Bella" if not home.refused else "")
    assert records[edited]["tags"] == (["garden"] if not home.refused else [])
    assert {name: records[name]["caption"] for name in others} == captions


def an_added_photo_is_found_and_nothing_else_changes(home: Home) -> None:
    before = home.records()
    (added,) = home.folder.glob("added.*")
    # A full disk has no space for a copy.
    added.rename(home.folder / home.photos / added.name)
    if home.write("index", home.photos, "--no-captions"):
        hits = home.search("jeep")
        assert {added.name} <= {Path(hit["path"]).name for hit in hits if hit["likely"]}
    after = home.records()
    assert after.keys() - before.keys() == ({added.name} if not home.refused else set())
    assert {name: after[name]["id"] for name in before} == {
        name: hit["id"] for name, hit in before.items()
    }
