"""The promises of the program, asked with the photos of the demo and the default model.

    python tests/promises.py

1. A search finds what photos show.
2. A search that reads texts is at least as good as one by images alone, and as one by words alone.
3. An edit that was acknowledged stays.
4. A photo that is added is found after the next index run, and nothing else changes.

tests/states/test_states.py asks them in each state that people are in; `make test-wheel` in a plain
installation, and `make test-lowest` with the lowest versions of the libraries.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

DOGS, CARS = ("Old English sheepdog", "Bernese mountain dog", "Pomeranian"), ("sports car", "jeep")
OTHERS = ("pizza", "daisy", "goose", "canoe", "church", "espresso", "umbrella", "electric guitar")
ADDED = "jeep"
"""What the photo shows that is added."""
BASELINES = {
    "images alone": ("--no-hybrid",),
    "words alone": tuple(f"--{part}-weight=0" for part in ("image", "caption", "text")),
}


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
    texts: Mapping[str, str] = field(default_factory=dict)
    """Queries whose answer only the texts of a photo have, with its file name."""

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

    def search(self, text: str, *options: str) -> list[dict[str, Any]]:
        """Search, best hit first."""
        return list(json.loads(self.run("search", text, *options, "--json")))

    def edit(self, name: str, value: str) -> bool:
        """Set the caption or the tags of a photo; return whether it was acknowledged."""
        return self.write("caption", f"{self.photos}/{name}", "--set", value)

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


def write_home(folder: Path) -> Home:
    """Write the home before it is indexed; the photo to add is next to the folder of photos."""
    (folder / "photos").mkdir(parents=True)
    dogs, taken = [], dict.fromkeys((*DOGS, *CARS, *OTHERS), 0)
    with ZipFile(Path(str(files("coca.workflows") / "demo" / "photos.zip"))) as archive:
        for photo in map(json.loads, archive.read("photos.jsonl").splitlines()):
            name, shows = str(photo["name"]), photo["shows"]
            if taken.get(shows, 2) < 2:
                is_added = shows == ADDED and not taken[ADDED]
                target = f"added{Path(name).suffix}" if is_added else f"photos/{name}"
                (folder / target).write_bytes(archive.read(name))
                taken[shows] += 1
                dogs += [name] if shows in DOGS else []
    return Home(folder, dogs)


def ask_all(home: Home) -> None:
    """Fail at the first promise that is not kept."""
    a_search_finds_what_photos_show(home)
    a_search_is_at_least_as_good_as_images_and_words(home)
    an_acknowledged_edit_stays(home)
    an_added_photo_is_found_and_nothing_else_changes(home)


def a_search_finds_what_photos_show(home: Home) -> None:
    hits = home.search("dog")
    names = [Path(hit["path"]).name for hit in hits]
    first = len(home.dogs) + len(home.wrong)
    assert set(home.dogs) <= set(names[:first])
    assert all(hit["likely"] for hit in hits[:first])
    reasons = [hit["reason"] for hit, name in zip(hits, names, strict=True) if name in home.wrong]
    assert reasons == ["tag: dog"] * len(home.wrong)


def a_search_is_at_least_as_good_as_images_and_words(home: Home) -> None:
    if not home.texts and not home.wrong:  # texts change no search
        return
    answers = {"dog": set(home.dogs)} | {query: {name} for query, name in home.texts.items()}
    found = right_first(home, answers)
    for baseline, options in BASELINES.items():
        alone = right_first(home, answers, *options)
        assert all(found[query] >= alone[query] for query in answers), (baseline, found, alone)
        assert found != alone or not home.texts, (baseline, found)


def right_first(home: Home, answers: Mapping[str, set[str]], *options: str) -> dict[str, int]:
    """Return how many right photos are among the first hits of each query, as many as are right."""
    counts = {}
    for query, right in answers.items():
        hits = home.search(query, *options)[: len(right) + len(home.wrong)]
        # By words alone, photos without them follow in any order.
        ranked = [hit for hit in hits if sum((hit.get("parts") or {"image": 1.0}).values()) > 0]
        counts[query] = len(right & {Path(hit["path"]).name for hit in ranked})
    return counts


def an_acknowledged_edit_stays(home: Home) -> None:
    edited, *others = home.dogs
    captions = {name: home.records()[name]["caption"] for name in others}
    texts = ("our dog Rex", "our dog Bella", "tags=garden")
    written = [home.edit(edited, text) for text in texts]
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


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        home = write_home(Path(name) / "home")
        home.run("index", "photos", "--no-captions")
        ask_all(home)
    sys.stdout.write("the promises are kept\n")
