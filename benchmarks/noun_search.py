"""Typed nouns as people search them: a folder of photos that `coca index` has read, in two states.

    python benchmarks/noun_search.py --photos FOLDER

The photos are the 600 of `photos_cc_by_600.zip`, the queries the nouns of `noun_photos`. "images"
is the ranking by vectors alone, "ranking" the default, with what the classifier sees, and
"classifier" the baseline: the encoder's own probabilities of the classes below the noun. In the
state "wrong tags" a hundredth of the photos that do not show the noun have it as a tag. Likely
photos are counted over all pairs of noun and photo.

Settings were chosen by these photos, so no score is of an independent set.
"""

import argparse
import json
import random
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from nouns import with_interval
from options import run
from ranking import add_data, loaded, noun_photos
from side_by_side import Rounds, table, write_report

import coca
from coca.search.records import Hit

ZIP, HITS, WRONG = "photos_cc_by_600.zip", 5, 0.01
METHODS: dict[str, dict[str, Any]] = {"images": {"hybrid": False}, "ranking": {}}


def rates(right: Bool[np.ndarray, " N"]) -> tuple[float, float]:
    """Compute the precision of the first hits, and the average precision."""
    precisions = right.cumsum() / np.arange(1, len(right) + 1)
    return float(right[: min(HITS, int(right.sum()))].mean()), float(precisions[right].mean())


def searched(engine: coca.SearchEngine, noun: str, **options: Any) -> dict[int, Hit]:
    """Return all hits of a noun by the number of the photo, best first."""
    return {int(Path(hit.path).stem): hit for hit in engine.search(noun, limit=1_000, **options)}


def tagged(engine: coca.SearchEngine, tags: dict[int, tuple[str, ...]]) -> None:
    """Set the tags of photos, by their numbers."""
    records = engine.collection.get(engine.collection.ids()).values()
    engine.collection.upsert(
        [replace(one, tags=tags.get(int(Path(one.path).stem), ())) for one in records]
    )


def referee(arguments: argparse.Namespace) -> Rounds:
    nouns, model = noun_photos(arguments), loaded(arguments.model)
    count = len(next(iter(nouns.values())))
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(arguments.photos) / ZIP) as archive:
            rows = [json.loads(line) for line in archive.read("meta.jsonl").splitlines()]
            images = [archive.read(row["image"]) for row in rows]
        (Path(folder) / "photos").mkdir()
        for number, image in enumerate(images):
            (Path(folder) / "photos" / f"{number}.webp").write_bytes(image)
        uri = f"{folder}/photos.db"
        coca.index(f"{folder}/photos", uri, model=model, captions=False)
        prepared = [model.prepare_image(image) for image in images]
        seen = [one.nouns for one in model.describe(prepared, captions=False)]
        with coca.open_store(uri) as store:
            engine = coca.SearchEngine(model, store.open("pictures"))
            return _scored(arguments, engine, nouns, seen, count)


def _scored(
    arguments: argparse.Namespace,
    engine: coca.SearchEngine,
    nouns: dict[str, np.ndarray],
    seen: list[Any],
    count: int,
) -> Rounds:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    likely: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    chance = random.Random(0)
    for noun, right in nouns.items():
        mass = np.array([one.get(noun, 0) for one in seen])
        first = np.argsort(-mass, kind="stable")
        found.setdefault(("no tags", "classifier"), []).append(rates(right[first]))
        wrong = [row for row in range(count) if not right[row] and chance.random() < WRONG]
        for state, rows in (("no tags", []), ("wrong tags", wrong)):
            tagged(engine, dict.fromkeys(rows, (noun,)))
            for method, options in METHODS.items():
                hits = searched(engine, noun, **options)
                order = np.array(list(hits))
                found.setdefault((state, method), []).append(rates(right[order]))
                shown = np.array([bool(hit.likely) for hit in hits.values()])
                pairs = int((shown & right[order]).sum()), int(shown.sum()), int(right.sum())
                likely.setdefault((state, method), []).append(pairs)
    rounds, lines = Rounds(), []
    for (state, method), values in found.items():
        precision, mean = np.array(values).T
        name = f"{state}, {method}"
        rounds[name] = [{"P@5": float(precision.mean()), "mAP": float(mean.mean())}]
        judged = ["-", "-"]
        if counts := likely.get((state, method)):
            hits, above, wanted = np.sum(counts, axis=0).tolist()
            judged = [f"{hits / above:.3f}", f"{hits / wanted:.3f}"]
            rounds[name][0] |= {"precision": hits / above, "recall": hits / wanted}
        lines.append([state, method, with_interval(precision), with_interval(mean), *judged])
    columns = ["state", "by", "P@5", "mAP", "likely: precision", "recall"]
    title = f"{len(nouns)} typed nouns over {count} indexed photos, `{arguments.model}`"
    sections = [table(columns, lines)]
    write_report(arguments, rounds, "noun-search", title, *sections, packages=["torch", "numpy"])
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    add_data(options)
    run(options, referee=referee, quick={"rounds": 1}, units={"*": "fraction"}, rounds=1)
