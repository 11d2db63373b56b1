"""Release of the shipped model: score the runs of all seeds, write card and weights."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from coca.core.config import digest
from coca.core.errors import ConfigError, DataError, ModelError
from coca.core.files import atomic_folder, write_atomic
from coca.core.progress import ProgressMaker, silent
from coca.core.provenance import commit_shown
from coca.demo.emoji.sets import UNSEEN_VENDOR
from coca.inference.caching import CachingPredictor
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.model.pretrained import save_model
from coca.release.model_card import CARD_FILE, DataLine, ResultTable, model_card
from coca.tasks import TASKS, TaskConfig
from coca.tasks.base import check_task, read_samples
from coca.train.tracker import read_metrics
from coca.workflows.evaluation.result_cache import result_key

MAX_BYTES = 20_000_000
"""Maximum size of the shipped model, in bytes."""

TOLERANCE = 1e-2
"""Maximum change of an embedding component by storing weights in half precision."""

CHECKED_SAMPLES = 64

Scores: TypeAlias = dict[str, dict[str, dict[str, float]]]
"""Title of the data, then task, then metrics; `samples` among them."""

INTENDED_USE = (
    "A small CoCa for first steps, tests and demonstrations: it embeds drawings and English words "
    "in one space, so that icons and emoji are found by words or by another drawing, and it names "
    "what a drawing shows. It comes with the package and needs no network."
)

LIMITS = (
    "It knows drawings in the manner of emoji, not photographs, and English words that name emoji, "
    "not sentences. It cannot read text in images, count, or recognize people. Names of "
    "countries are learned by heart from flags; a flag that it has not seen is unknown to it, "
    "so scores are given with and without flags. Concepts that differ by a detail (hours of "
    "a clock, sexes of a profession, faces that differ by a mouth) are often mixed up. The emoji "
    "carry the choices of their vendors and of Unicode in whom and what they show. For photographs "
    "load other weights."
)

# Rows of a table: title, task and metric of the model.
_ROWS = (
    *((f"text to image, R@{k}", "retrieval", f"text_to_image_recall@{k}") for k in (1, 5, 10)),
    *((f"image to text, R@{k}", "retrieval", f"image_to_text_recall@{k}") for k in (1, 5, 10)),
    *(
        (f"image to image, R@{k}", "image_retrieval", f"image_to_image_recall@{k}")
        for k in (1, 5, 10)
    ),
    ("zero-shot with prompts, top-1", "zero_shot", "top1"),
    ("zero-shot with prompts, top-5", "zero_shot", "top5"),
)
_BASELINES = ("pixel_floor", "trimmed_pixel_floor")
# The pixel baseline only finds the nearest reference image, which answers all of these metrics.
_BASELINE_METRICS = {
    **{f"image_to_image_recall@{k}": f"image_to_text_recall@{k}" for k in (1, 5, 10)},
    "top1": "image_to_text_recall@1",
    "top5": "image_to_text_recall@5",
}


@dataclass(frozen=True)
class Release:
    """A released model."""

    folder: Path
    size_bytes: int
    """Total size of the files."""
    largest_change: float
    """Maximum change of an embedding component by half precision."""


def release_model(
    runs: Sequence[str | Path],
    tasks: Sequence[TaskConfig],
    into: str | Path,
    *,
    data: str | Path,
    progress: ProgressMaker = silent,
    log: Callable[[str], None] = lambda line: None,
) -> Release:
    """Write the first run's model in half precision, with a model card over all runs.

    The first and not the best run is shipped, since selection by these scores would bias them.

    Args:
        runs: Runs of one recipe with different seeds.
        tasks: Tasks to score each run on; pixel baselines run once. Scores are cached in each run.
        into: Output folder.
        data: Folder written by `pack_sets`, for the names and terms of the drawings.
        progress: Optional progress callback.
        log: Receives a status line at the start of each stage.

    Raises:
        ModelError: The weights are too large for the package, or half precision changes the
            embeddings too much.
        CocaError: A run has no model, or the data are missing.
    """
    if not runs:
        raise ConfigError("no run is named; name at least one folder of `coca pretrain`")
    scores = [
        score_run(run, tasks, floors=number == 0, progress=progress, log=log)
        for number, run in enumerate(runs)
    ]
    log(f"writing the model to {into}")
    predictor = load(runs[0], device="cpu")
    with atomic_folder(into) as folder:
        save_model(folder, predictor.model, dtype=torch.float16)
        predictor.processor.save(folder)
        change = largest_change(predictor, load(folder, device="cpu"), tasks[0])
        if not change <= TOLERANCE:
            raise ModelError(
                f"half precision changes embeddings of {runs[0]} by up to {change:.3g}; at most "
                f"{TOLERANCE} is accepted"
            )
        card = model_card(
            folder,
            title="nano",
            intended_use=INTENDED_USE,
            data=_data_lines(Path(data)),
            training=_training(runs),
            results=result_tables(scores),
            limits=LIMITS,
            licence="apache-2.0",
            load_as="nano",
        )
        write_atomic(folder / CARD_FILE, card.encode())
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > MAX_BYTES:
            raise ModelError(
                f"the model takes {size:,} bytes; at most {MAX_BYTES:,} go into the package"
            )
    return Release(Path(into), size, change)


def score_run(
    run: str | Path,
    tasks: Sequence[TaskConfig],
    *,
    floors: bool = True,
    progress: ProgressMaker = silent,
    log: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Score a run's model, with scores cached in its `evaluation.json`.

    Args:
        run: Folder of the run.
        tasks: Tasks to score it on.
        floors: Include the pixel baselines, which do not depend on the model.
        progress: Optional progress callback.
        log: Receives a status line if tasks have to run.

    Raises:
        CocaError: The run has no model, or a task cannot run.
    """
    predictor = CachingPredictor(load(run))
    wanted = [task for task in tasks if floors or task.task not in _BASELINES]
    path = Path(run) / "evaluation.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = content.get("scores", {}) if content.get("fingerprint") == predictor.fingerprint else {}
    keys = {
        digest(task): result_key(predictor, task, data=check_task(predictor, task))
        for task in wanted
    }
    missing = [task for task in wanted if keys[digest(task)] not in kept]
    if missing:
        log(f"scoring {run} on {len(missing)} tasks")
    for task in missing:
        result = TASKS.get(task.task)(predictor, task, progress=progress)
        kept[keys[digest(task)]] = {**result.metrics, "samples": result.samples}
        record = {"fingerprint": predictor.fingerprint, "scores": kept}
        write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())
    scores: Scores = {}
    for task in wanted:
        scores.setdefault(task.data.title, {})[task.task] = kept[keys[digest(task)]]
    return scores


def result_tables(seeds: Sequence[Scores]) -> list[ResultTable]:
    """Build a table per part of the data: mean and spread over seeds, chance, pixel baselines.

    A single seed has no spread; the note states it.

    Args:
        seeds: Scores of each run; the first run provides the pixel baselines.
    """
    several = len(seeds) > 1
    spread = ["spread"] if several else []
    columns = ["score", "nano", *spread, "chance", "raw pixels", "trimmed pixels"]
    tables = []
    for part, first in seeds[0].items():
        rows = []
        for title, task, metric in _ROWS:
            if metric not in first.get(task, {}):
                continue
            values = [scores[part][task][metric] for scores in seeds]
            floor = _BASELINE_METRICS.get(metric, metric)
            rows.append(
                [
                    title,
                    f"{statistics.mean(values):.3f}",
                    *([f"{min(values):.3f} to {max(values):.3f}"] if several else []),
                    f"{first[task][f'chance_{metric}']:.4f}",
                    *(_shown(first.get(name, {}).get(floor)) for name in _BASELINES),
                ]
            )
        count = int(next(iter(first.values()))["samples"])
        of = f"Mean, minimum and maximum of {len(seeds)} seeds" if several else "One seed"
        note = f"{of}; {count:,} drawings."
        tables.append(ResultTable(part, columns, rows, note))
    return tables


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def largest_change(one: Predictor, other: Predictor, task: TaskConfig) -> float:
    """Compute the largest absolute difference of two models' embeddings on samples of a task."""
    samples, _ = read_samples(task.data, limit=CHECKED_SAMPLES)
    images = [sample.image for sample in samples]
    texts = [text for sample in samples for text in sample.captions]
    pairs = (
        (one.embed_images(images), other.embed_images(images)),
        (one.embed_texts(texts), other.embed_texts(texts)),
    )
    return max(float(np.abs(left - right).max()) for left, right in pairs)


def _data_lines(data: Path) -> list[DataLine]:
    """List training and test data with licences and attribution."""
    path = data / "sets.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", reason="missing") from error
    return [_data_line(one) for one in content["sets"]]


def _data_line(one: Mapping[str, Any]) -> DataLine:
    counts: Mapping[str, int] = one["pictures"]
    if one["vendor"] == UNSEEN_VENDOR:
        used = f"{sum(counts.values()):,} drawings, for tests only"
    elif counts:
        used = f"{counts['train']:,} drawings; {counts['heldout']:,} held out for tests"
    else:
        used = "labels and tags of all concepts"
    name = f"[{one['name']}]({one['source']}), npm {one['package']} {one['version']}"
    return DataLine(name, used, f"{one['licence']}, {one['author']}")


def _training(runs: Sequence[str | Path]) -> str:
    recipes, records = (
        [json.loads((Path(run) / name).read_text(encoding="utf-8")) for run in runs]
        for name in ("recipe.json", "record.json")
    )
    first, start = recipes[0], records[0]["starts"][-1]
    steps, batch = first["train"]["steps"], first["data"]["loader"]["batch_size"]
    seeds = ", ".join(str(recipe["seed"]) for recipe in recipes)
    of_seeds = f"Seeds {seeds}" if len(recipes) > 1 else f"Seed {seeds}"
    speeds = [row["pairs_per_s"] for run in runs for row in read_metrics(run)]
    minutes = steps * batch / statistics.median(speeds) / 60
    machine, code = start["machine"], start["code"]
    commit = f", {commit_shown(code)}" if code else ""
    return (
        f"`recipes/pretrain/nano.yaml`: both losses, {steps:,} steps of {batch} pairs, about "
        f"{minutes:.0f} minutes on {machine['cores']} cores of {machine['cpu']}{commit}, "
        f"{start['started'][:10]}. {of_seeds}; the weights are those of seed "
        f"{first['seed']}, stored in half precision. Fluent's two sets count as one vendor. "
        "OpenMoji was not read, nor were 200 concepts of any vendor, chosen by a hash within each "
        "group, flags left out."
    )
