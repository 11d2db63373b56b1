"""Each addition of the recipe of `everyday` left out in turn, on a frozen encoder.

    python benchmarks/addition_study.py --data-root runs/everyday-data
    python benchmarks/addition_study.py --only "all,no drawings" --rounds 1

A variant is recipes/pretrain/everyday.yaml without one of its additions, with smaller decoders and
fewer steps. All variants of a seed have the same sizes, steps and learning rate. Runs are kept in
`runs/addition-study`; a run that ended is not trained again, and one that was stopped is resumed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from options import run
from side_by_side import Figures, Rounds, Unavailable, emit, figure, in_turn, table, write_report

RECIPES = Path(__file__).parents[1] / "recipes"
PRETRAIN = RECIPES / "pretrain" / "everyday.yaml"
FOLDER = Path("runs/addition-study")
PHOTOS = ("flickr8k", "class names")
"""Names of the sources in the recipe that are photos."""

Recipe = dict[str, Any]


def keep_sources(recipe: Recipe, *names: str) -> None:
    """Remove all sources but those of these names."""
    data = recipe["data"]
    data["sources"] = [it for it in data["sources"] if it["name"] in names]


def without_word_vectors(recipe: Recipe) -> None:
    """Train free token embeddings instead of a map from word vectors."""
    recipe["word_vectors"] = None


def without_whole_words(recipe: Recipe) -> None:
    """Keep the 4,000 subwords of the captions and no word of the list."""
    recipe["tokenizer"] = {}
    recipe["model"]["text"]["vocab_size"] = 4_000


def without_distillation(recipe: Recipe) -> None:
    """Train without the encoder's classifier."""
    recipe["loss"]["distillation_weight"] = 0


def without_class_names(recipe: Recipe) -> None:
    """Leave out the photos whose captions are class names."""
    keep_sources(
        recipe, *(it["name"] for it in recipe["data"]["sources"] if it["name"] != PHOTOS[1])
    )


def without_keywords(recipe: Recipe) -> None:
    """Use the names of drawings alone as captions."""
    for source in recipe["data"]["sources"]:
        source.pop("keyword_field", None)
        source.pop("keyword_fraction", None)


def without_drawings(recipe: Recipe) -> None:
    """Leave out all drawings."""
    keep_sources(recipe, *PHOTOS)


def without_all(recipe: Recipe) -> None:
    """Train on captioned photos alone, on subwords with free embeddings."""
    without_word_vectors(recipe)
    without_whole_words(recipe)
    without_distillation(recipe)
    keep_sources(recipe, PHOTOS[0])


VARIANTS: dict[str, Callable[[Recipe], None] | None] = {
    "all": None,
    "no word vectors": without_word_vectors,
    "no whole words": without_whole_words,
    "no distillation": without_distillation,
    "no class names": without_class_names,
    "no keywords": without_keywords,
    "no drawings": without_drawings,
    "none": without_all,
}
OPENMOJI = {
    "kind": "shards",
    "name": "OpenMoji",
    "path": "${data_root}/emoji/test/openmoji-*.tar",
}
VAL = {"kind": "shards", "name": "Flickr8k val", "path": "${data_root}/flickr8k_224/val-*.tar"}
IMAGENETTE = {
    "kind": "zip",
    "name": "Imagenette val",
    "path": "${data_root}/imagenette_96.zip",
    "where": {"split": "val"},
}
TRAIN = {
    "kind": "shards",
    "name": "training",
    "path": [
        "${data_root}/flickr8k_224/train-*.tar",
        "${data_root}/emoji/train/*.tar",
        "${data_root}/drawings/*.tar",
    ],
}
SCORES: dict[str, tuple[str, dict[str, Any]]] = {
    "everyday queries, success@5": (
        "success@5",
        {"task": "keyword_search", "queries": "everyday", "data": OPENMOJI},
    ),
    "keywords, success@5": (
        "success@5",
        {"task": "keyword_search", "queries": "keywords", "data": OPENMOJI},
    ),
    "photos, text to image R@10": ("text_to_image_recall@10", {"task": "retrieval", "data": VAL}),
    "photos, CIDEr": ("cider", {"task": "captioning", "data": VAL}),
    "Imagenette, top-1": ("top1", {"task": "zero_shot", "prompts": "photo", "data": IMAGENETTE}),
    "synonyms, R@10": (
        "synonym_recall@10",
        {"task": "synonyms", "data": VAL, "reference": TRAIN},
    ),
}
"""By title, the name of a score and the task that computes it."""

QUICK = {"steps": 5, "width": 64, "layers": 1, "only": "all,no distillation", "rounds": 1}
UNITS = {"*success@5": "fraction", "*R@10": "fraction", "*top-1": "fraction", "*CIDEr": "CIDEr"}


def pretrain_recipe(arguments: argparse.Namespace, variant: str, seed: int, out: Path) -> Path:
    """Write the recipe of a variant and return its path."""
    recipe: Recipe = yaml.safe_load(PRETRAIN.read_text(encoding="utf-8"))
    change = VARIANTS[variant]
    if change is not None:
        change(recipe)
    heads = arguments.width // 64
    recipe["model"]["text"] |= {
        "width": arguments.width,
        "heads": heads,
        "mlp_width": 4 * arguments.width,
        "unimodal_layers": arguments.layers,
        "multimodal_layers": arguments.layers,
    }
    recipe["data"]["features"]["views"] = arguments.views
    recipe["data"]["loader"] = {"batch_size": arguments.batch, "workers": 0}
    recipe["train"] |= {"steps": arguments.steps, "save_every": 100, "ema": {"decay": 0.98}}
    recipe |= {"run": str(out), "seed": seed, "threads": arguments.threads}
    recipe["data_root"] = arguments.data_root
    path = out.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def evaluate_recipe(arguments: argparse.Namespace) -> Path:
    """Write the tasks that score a variant and return the path of their recipe."""
    path = FOLDER / "evaluate.yaml"
    recipe = {"data_root": arguments.data_root, "tasks": [task for _, task in SCORES.values()]}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def coca(*words: str) -> None:
    """Run a command of this package; its output goes to stderr."""
    subprocess.run([sys.executable, "-m", "coca", *words], check=True, stdout=sys.stderr)


def read_scores(report: Path) -> Figures:
    """Read the scores of a variant from the report of its evaluation, in the order of `SCORES`."""
    tasks = json.loads(report.read_text(encoding="utf-8"))["tasks"]
    return {
        title: task["metrics"][metric]
        for (title, (metric, _)), task in zip(SCORES.items(), tasks, strict=True)
    }


def contestant(arguments: argparse.Namespace) -> None:
    variant, _, seed = arguments.contestant.rpartition("/")
    out = FOLDER / f"{variant.replace(' ', '-')}-{arguments.width}-{arguments.steps}-{seed}"
    coca("pretrain", str(pretrain_recipe(arguments, variant, int(seed), out)))
    report = out / "scores"
    coca("evaluate", str(out), str(evaluate_recipe(arguments)), "--out", str(report))
    emit(read_scores(report / "report.json"))


def referee(arguments: argparse.Namespace) -> Rounds:
    if not (Path(arguments.data_root) / "emoji").is_dir():
        raise Unavailable(
            "needs the drawings and photos of recipes/pretrain/everyday.yaml, whose first lines "
            "have the commands and the addresses; pass their folder with --data-root"
        )
    names = ("data_root", "width", "layers", "steps", "batch", "views", "threads")
    shared = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    chosen = arguments.only.split(",") if arguments.only else list(VARIANTS)
    measured = Rounds({name: [] for name in chosen})
    for seed in range(arguments.rounds):
        found = in_turn({it: [*shared, f"--contestant={it}/{seed}"] for it in chosen}, rounds=1)
        for name, runs in found.items():
            measured[name] += runs
    titles = list(SCORES)
    write_report(
        arguments,
        measured,
        "addition-study",
        "Each addition of the recipe of everyday left out",
        table(
            ["variant", *titles],
            [
                [name, *(figure(runs, it).shown(3) for it in titles)]
                for name, runs in measured.items()
            ],
        ),
        f"Median, minimum and maximum of {arguments.rounds} seeds. {arguments.steps} steps of "
        f"{arguments.batch} pairs; decoders of {arguments.layers} + {arguments.layers} layers of "
        f"{arguments.width}; {arguments.views} views of each image.",
        packages=["torch"],
    )
    return measured


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--data-root", default="runs/everyday-data", help="data of the recipe")
    options.add_argument("--only", help="variants, with commas; default: all")
    options.add_argument("--width", type=int, default=128, help="width of the decoders (128)")
    options.add_argument("--layers", type=int, default=2, help="layers of each decoder (2)")
    options.add_argument("--steps", type=int, default=400, help="steps (400)")
    options.add_argument("--batch", type=int, default=128, help="pairs of a step (128)")
    options.add_argument("--views", type=int, default=1, help="views of each image (1)")
    options.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
