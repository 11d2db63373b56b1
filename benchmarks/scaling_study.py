"""Error against compute on a frozen encoder: size of the decoders, steps, and unique photos.

    python benchmarks/scaling_study.py
    python benchmarks/scaling_study.py --rounds 2 --sizes 48x1,96x2,160x2,256x3

One training at a constant rate gives a point at each of its lengths: a branch decays the rate to 0
(arXiv 2405.18392). Compute is the operations of a pair, forward and backward, times the pairs; the
features are cached. A saturating power law, error = a x^-b + c, is fitted to the best points of
each compute (the Pareto front), and 100 bootstraps of the points give its spread. The points with
the most compute are left out of the fit and predicted. All points are appended to a CSV file, and
those that are there are not computed again. The figures hold for this range only.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frozen_photos import (
    Photos,
    Study,
    add_options,
    load_photos,
    passed_on,
    score,
    sized,
    train_tokenizer,
)
from options import run
from side_by_side import Figures, Rounds, emit, in_turn, table, write_report

from coca.core.malloc import keep_freed_memory
from coca.train.objective import LossConfig

FRACTIONS = (1.0, 0.5, 0.25)
ERRORS = {
    "recall": "1 - R@10, text to image",
    "loss": "captioning loss, nats per token",
}
COLUMNS = ("size", "fraction", "seed", "steps", "parameters", "gflops", *ERRORS)
HELD_OUT, BOOTSTRAPS = 4.0, 100
"""Factor of compute between the fitted points and the farthest, and the number of resamplings."""

QUICK = {
    "scored": 200,
    "sizes": "32x1,64x1",
    "lengths": "8,16",
    "fractions": 1,
    "rounds": 1,
}
UNITS = {"recall *": "1 - R@10", "loss *": "nats per token", "exponent *": "exponent"}


def contestant(arguments: argparse.Namespace) -> None:
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    size, fraction, seed = arguments.contestant.split("/")
    width, layers = map(int, size.split("x"))
    folder = Path(arguments.folder)
    train, val = (load_photos(it, folder) for it in (arguments.train, arguments.val))
    tokenizer = train_tokenizer(train, arguments.vocab)
    rows = np.random.default_rng(0).permutation(len(train))[: round(float(fraction) * len(train))]
    part = Photos(train.features[rows], [train.captions[row] for row in rows])
    study = Study(
        sized(width, layers, tokenizer.vocab_size),
        part,
        tokenizer,
        loss=LossConfig(contrastive_weight=1, captioning_weight=2),
        # Wider models need lower rates; 1e-3 is the recipe's for a width of 256.
        lr=1e-3 * (256 / width) ** 0.5,
        batch_size=arguments.batch,
        seed=int(seed),
    )
    flops = study.flops_of_pair()
    trained = sum(it.numel() for it in study.model.parameters() if it.requires_grad)
    figures: Figures = {"parameters": trained}
    for length in map(int, arguments.lengths.split(",")):
        study.run_to(length)
        branch = study.branch()
        found = score(branch, val.first(arguments.scored))
        figures |= {
            f"gflops {length}": flops * branch.step * arguments.batch / 1e9,
            f"recall {length}": 1 - found["text to image R@10"],
            f"loss {length}": found["captioning loss"],
        }
    emit(figures)


Point = dict[str, Any]


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = passed_on(arguments, "lengths")
    path = Path(arguments.folder) / ("points-quick.csv" if arguments.quick else "points.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = [int(it) for it in arguments.lengths.split(",")]
    measured = Rounds()
    for seed in range(arguments.rounds):
        for fraction in FRACTIONS[: arguments.fractions]:
            for size in arguments.sizes.split(","):
                name = f"{size}/{fraction}/{seed}"
                there = {
                    int(it["steps"])
                    for it in read_points(path)
                    if (it["size"], it["fraction"], it["seed"]) == (size, fraction, seed)
                }
                if there >= set(lengths):
                    continue
                found = in_turn({name: [*shared, f"--contestant={name}"]}, rounds=1)
                measured[name] = found[name]
                append(path, size, fraction, seed, lengths, found[name][0])
    points = read_points(path)
    sections = []
    for error, title in ERRORS.items():
        full = [it for it in points if it["fraction"] == 1]
        fitted = law(full, error)
        measured.setdefault(f"law of {error}", [{}])[0][f"exponent {error}"] = fitted["b"][0]
        sections += [f"## {title}", describe(fitted), predicted(full, error)]
    report = write_report(
        arguments,
        measured,
        "scaling-study",
        "Error against compute on a frozen encoder",
        table(
            ["model", "photos", "seed", "steps", "M parameters", "TFLOP", *ERRORS.values()],
            [row_of(it) for it in points],
        ),
        *sections,
        packages=["torch"],
    )
    report.with_suffix(".csv").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    draw(report.with_suffix(".svg"), points)
    return measured


def read_points(path: Path) -> list[Point]:
    """Read the points that are computed already."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    whole = ("seed", "steps")
    return [
        {
            name: text if name == "size" else int(text) if name in whole else float(text)
            for name, text in row.items()
        }
        for row in rows
    ]


def append(
    path: Path, size: str, fraction: float, seed: int, lengths: Sequence[int], found: Figures
) -> None:
    """Append the points of a training to the CSV file."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        if is_new:
            writer.writerow(COLUMNS)
        for length in lengths:
            scores = [found[f"{name} {length}"] for name in ("gflops", *ERRORS)]
            writer.writerow([size, fraction, seed, length, found["parameters"], *scores])


def row_of(point: Point) -> list[str]:
    """Format a point as a row of the table."""
    return [
        *(point["size"], f"{point['fraction']:g}", str(point["seed"]), str(point["steps"])),
        *(f"{point['parameters'] / 1e6:.2f}", f"{point['gflops'] / 1e3:.2f}"),
        *(f"{point[error]:.3f}" for error in ERRORS),
    ]


def front(points: Sequence[Point], error: str) -> list[Point]:
    """Return the points that no point with less compute equals."""
    best, kept = np.inf, []
    for point in sorted(points, key=lambda it: it["gflops"]):
        if point[error] < best:
            best = point[error]
            kept.append(point)
    return kept


def fit(points: Sequence[Point], error: str) -> tuple[float, float, float] | None:
    """Fit error = a x^-b + c to the Pareto front, with x in GFLOP; None for too few points."""
    kept = front(points, error)
    if len(kept) < 4:
        return None
    x, y = np.array([[it["gflops"], it[error]] for it in kept]).T
    found = []
    for floor in np.linspace(0, 0.98 * y.min(), 100):
        slope, offset = np.polyfit(np.log(x), np.log(y - floor), 1)
        # Relative to y, so that the fits for all values of c compare.
        distance = float(np.sum(((np.exp(offset) * x**slope + floor) / y - 1) ** 2))
        found.append((distance, float(np.exp(offset)), float(-slope), float(floor)))
    return min(found)[1:]


def law(points: Sequence[Point], error: str) -> dict[str, tuple[float, float, float]]:
    """Return the fitted a, b and c, each with the 5 % and 95 % quantiles of the bootstraps."""
    best = fit(points, error) or (np.nan,) * 3
    generator = np.random.default_rng(0)
    drawn = [
        again
        for _ in range(BOOTSTRAPS)
        if (
            again := fit(
                [points[row] for row in generator.integers(0, len(points), len(points))], error
            )
        )
    ]
    low, high = np.quantile(drawn, (0.05, 0.95), axis=0) if drawn else np.full((2, 3), np.nan)
    return {name: (best[i], low[i], high[i]) for i, name in enumerate("abc")}


def describe(found: dict[str, tuple[float, float, float]]) -> str:
    """Format the fitted law."""
    if np.isnan(found["b"][0]):
        return "Too few points for a fit."
    a, b, c = (f"{best:.3g} ({low:.3g} to {high:.3g})" for best, low, high in found.values())
    return f"error = a x^-b + c, x in GFLOP: a = {a}, b = {b}, c = {c}; 5 % to 95 % in brackets."


def predicted(points: Sequence[Point], error: str) -> str:
    """Predict the best of the points with the most compute from those with a quarter of it."""
    limit = max(it["gflops"] for it in points) / HELD_OUT
    near = [it for it in points if it["gflops"] <= limit]
    found = fit(near, error)
    if found is None:
        return "Too few points for a prediction."
    a, b, c = found
    target = front(points, error)[-1]
    return (
        f"From points of at most {limit / 1e3:.1f} TFLOP: {a * target['gflops'] ** -b + c:.3f} at "
        f"{target['gflops'] / 1e3:.1f} TFLOP; measured {target[error]:.3f}."
    )


def draw(path: Path, points: Sequence[Point]) -> None:
    """Draw error against compute, one panel for each error."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 4), layout="constrained")
    panels = drawing.subplots(1, len(ERRORS))
    for panel, (error, title) in zip(panels, ERRORS.items(), strict=True):
        for number, size in enumerate(dict.fromkeys(it["size"] for it in points)):
            for fraction, mark in zip(FRACTIONS, "o^v", strict=True):
                some = [it for it in points if (it["size"], it["fraction"]) == (size, fraction)]
                if some:
                    label = f"{size}, {fraction:g} of the photos"
                    x, y = [it["gflops"] / 1e3 for it in some], [it[error] for it in some]
                    panel.plot(x, y, mark, color=f"C{number}", label=label, markersize=4)
        found = fit([it for it in points if it["fraction"] == 1], error)
        if found is not None:
            compute = [it["gflops"] for it in points]
            line = np.geomspace(min(compute), max(compute), 50)
            panel.plot(line / 1e3, found[0] * line ** -found[1] + found[2], color="black", lw=1)
        panel.set(xlabel="TFLOP", ylabel=title, xscale="log", yscale="log")
        panel.grid(alpha=0.3, which="both")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside right center", fontsize="x-small")
    # Text stays text: a tenth of the size.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling-study"}):
        drawing.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(options)
    options.add_argument("--sizes", default="48x1,96x2,160x2,256x3", help="WIDTHxLAYERS")
    options.add_argument("--lengths", default="50,100,200,400", help="steps before the decay")
    options.add_argument("--fractions", type=int, default=3, help="1, 1/2 and 1/4 of the photos")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS, rounds=2)
