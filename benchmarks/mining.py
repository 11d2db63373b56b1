"""Data selection by mining against random selection: fine-tuning accuracy on Imagenette.

    python benchmarks/mining.py --model runs/flickr8k/coca-0

The training photos are indexed in a collection. `diverse` selects by k-center; `like` selects the
nearest neighbors of 4 photos of each class, the only use of labels; `unsure` selects the most
uncertain photos by zero-shot classification. `recipes/finetune/imagenette_frozen.yaml` trains on
the manifest of each selection with the same number of steps, and is scored on the 500 validation
photos. The seed applies to the training, the random selection and the examples.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from options import run
from sample_data import LABELLED, located
from side_by_side import Figures, Rounds, emit, figure, in_turn, table, write_report

from coca.inference import loading
from coca.inference.predictor import Predictor
from coca.runtime.prompts import prompts_named
from coca.search.milvus.collection import Collection
from coca.search.mining.selection import Choice
from coca.search.mining.zero_shot import add_classes
from coca.workflows.collections.class_prompts import open_classes
from coca.workflows.collections.index import index_images
from coca.workflows.collections.mining import Mining, mine

RECIPE = Path(__file__).parents[1] / "recipes/finetune/imagenette_frozen.yaml"
SHARE, EXAMPLES = 0.2, 4
WAYS = {
    "random": "a random fifth",
    "diverse": "spread out (`--diverse`)",
    "like": "nearest to 4 photos a class (`--positive`)",
    "unsure": "least sure (`--uncertain`)",
    "sure": "most sure, same number of each guessed class",
    "all": "all of it",
}


def unpacked(data: str, folder: Path) -> dict[Path, str]:
    """Write the training photos as files with sidecar labels, and return the label of each file."""
    labels = {}
    with zipfile.ZipFile(data) as zipped:
        for line in zipped.read("meta.jsonl").decode().splitlines():
            row = json.loads(line)
            if row["split"] != "train":
                continue
            path = folder / Path(row["image"]).name
            path.write_bytes(zipped.read(row["image"]))
            path.with_suffix(".json").write_text(json.dumps({"label": row["label"]}))
            labels[path] = row["label"]
    return labels


def mined(
    way: str, labels: dict[Path, str], predictor: Predictor, folder: Path, seed: int
) -> list[Path]:
    """Select photos, and write them to `chosen.jsonl`."""
    rng, count = random.Random(seed), round(SHARE * len(labels))
    uri, out = str(folder / "pool.db"), folder / "chosen.jsonl"
    files = sorted(labels)
    if way in ("random", "all"):
        chosen = files if way == "all" else rng.sample(files, count)
        return written(chosen, labels, out)
    index_images(files, predictor, uri=uri, captions=False)
    with (
        Collection.open(uri) as collection,
        open_classes(predictor, uri, create=True) as classes,
    ):
        names = sorted(set(labels.values()))
        add_classes(classes, predictor, names, templates=prompts_named("photo"))
        by_class = {name: [file for file in files if labels[file] == name] for name in names}
        examples = [file for name in names for file in rng.sample(by_class[name], EXAMPLES)]
        wanted = {
            "diverse": Mining(),
            "like": Mining(examples=examples),
            "unsure": Mining(uncertain_among=classes),
        }
        if way == "sure":
            guesses = predictor.classify(files, names)
            best = sorted(zip(files, guesses, strict=True), key=lambda one: -one[1][0].probability)
            taken: Counter[str] = Counter()
            chosen = []
            for file, guess in best:
                if taken[guess[0].label] < count // len(names):
                    taken[guess[0].label] += 1
                    chosen.append(file)
            return written(chosen, labels, out)
        mine(collection, predictor, wanted[way], Choice(count=count, diverse=way == "diverse"), out)
    return [Path(json.loads(line)["image"]) for line in out.read_text().splitlines()]


def written(chosen: Sequence[Path], labels: dict[Path, str], out: Path) -> list[Path]:
    rows = [{"image": str(path), "label": labels[path]} for path in chosen]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(chosen)


QUICK = {"model": "nano", "seeds": 1, "steps": 10, "of": "random,diverse"}
UNITS = {"* top1": "fraction"}


def contestant(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        labels = unpacked(arguments.data, folder / "photos")
        predictor = loading.load(arguments.model, device="cpu")
        figures: Figures = {}
        for seed in range(arguments.seeds):
            own = folder / str(seed)
            own.mkdir()
            chosen = mined(arguments.contestant, labels, predictor, own, seed)
            counts = Counter(labels[path] for path in chosen)
            figures |= {
                f"{seed} chosen": len(chosen),
                f"{seed} fewest": min(counts[name] for name in set(labels.values())),
                f"{seed} most": max(counts.values()),
                f"{seed} top1": score(arguments, own, seed),
            }
        emit(figures)


def score(arguments: argparse.Namespace, folder: Path, seed: int) -> float:
    """Compute top-1 after fine-tuning on the selected photos."""
    source = f"{{kind: manifest, path: {folder / 'chosen.jsonl'}, text: labels}}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "coca", "finetune", str(RECIPE), f"model={arguments.model}"),
            *(
                f"run={folder / 'run'}",
                f"seed={seed}",
                f"train.steps={arguments.steps}",
                f"data.sources=[{source}]",
            ),
            *(f"evaluate.0.data.path={arguments.data}", "--json"),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    (task,) = json.loads(done.stdout)["scores"]
    return float(task["metrics"]["top1"])


def referee(arguments: argparse.Namespace) -> Rounds:
    ways = arguments.of.split(",")
    arguments.data = located(arguments.data)
    shared = [
        f"--{name}={getattr(arguments, name)}" for name in ("model", "data", "seeds", "steps")
    ]
    rounds = in_turn({way: [*shared, f"--contestant={way}"] for way in ways}, rounds=1)
    rows = []
    for way in rounds:
        (own,) = rounds[way]
        seeds = range(arguments.seeds)
        scores = [own[f"{seed} top1"] for seed in seeds]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        fewest, most = (figure([own], f"0 {what}").median for what in ("fewest", "most"))
        rows.append(
            [
                WAYS[way],
                f"{own['0 chosen']:.0f}",
                f"{fewest:.0f} to {most:.0f}",
                f"{statistics.mean(scores):.3f} ± {spread:.3f}",
                ", ".join(f"{one:.3f}" for one in scores),
            ]
        )
    write_report(
        arguments,
        rounds,
        "mining",
        "A mined fifth against a random fifth",
        f"{Path(arguments.data).name}: selected from the images of the split train, top-1 on those "
        "of the split val; ± is the standard deviation over seeds.",
        table(["training data", "photos", "of a class, seed 0", "top-1", "seeds"], rows),
        packages=["torch", "pymilvus", "milvus-lite"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="nano", help="initial weights")
    options.add_argument(
        "--data",
        default=LABELLED,
        help="zip with a table meta.jsonl of image, label and split; default: drawings of the "
        "extra `demo` and their groups",
    )
    options.add_argument("--seeds", type=int, default=3, help="runs of each way (default 3)")
    options.add_argument("--steps", type=int, default=100, help="of the training (default 100)")
    options.add_argument("--of", default=",".join(WAYS), help="ways to choose")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS, rounds=1)
