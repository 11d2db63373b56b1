"""Lists and compares the runs of a folder: settings that differ, losses, scores and curves.

The HTML page is one file without scripts: curves are SVG, sample captions have their thumbnails
inside.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from coca.core.errors import ConfigError
from coca.core.files.atomic import read_json, write_atomic
from coca.inference.run_model import BEST_FOLDER, TRAINING_FILE
from coca.train.tracker import flattened, read_metrics

SAMPLES_FOLDER, CAPTIONS_FILE = "samples", "captions.jsonl"
"""Folder of a run with sample captions of each evaluation, and their file."""
MAX_POINTS = 400
"""Maximum number of points of a curve; longer curves are thinned evenly."""

Curve: TypeAlias = list[tuple[int, float]]
"""Steps with the value of a metric."""


class Best(NamedTuple):
    """The best evaluation of a run so far."""

    score: str
    value: float
    step: int


def best_of(run: Path) -> Best | None:
    """Return score, value and step of the best weights of a run, if it has any."""
    try:
        return Best(**read_json(run / BEST_FOLDER / TRAINING_FILE))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Run:
    """A run as its folder describes it."""

    name: str
    """Path of the run, relative to the folder that was searched."""
    folder: Path
    step: int
    """Step of the newest row of metrics; 0 before the first."""
    steps: int
    """Length of the run."""
    settings: Mapping[str, Any]
    """Settings by dotted name."""
    metrics: Mapping[str, float]
    """Newest value of each metric and score."""
    best: Best | None
    curves: Mapping[str, Curve]


def find_runs(folder: str | Path) -> list[Run]:
    """Read all runs in a folder and its subfolders, sorted by name.

    Raises:
        ConfigError: There is no run.
    """
    root = Path(folder)
    found = sorted(path.parent for path in root.rglob("recipe.json")) if root.is_dir() else []
    if not found:
        raise ConfigError(
            f"{folder} contains no run: a run has a recipe.json, which `coca pretrain` and `coca "
            "finetune` write"
        )
    return [_read(run, root) for run in found]


def _read(folder: Path, root: Path) -> Run:
    try:
        recipe = dict(read_json(folder / "recipe.json"))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder / 'recipe.json'} cannot be read: {error}") from error
    settings = flattened(recipe)
    curves: dict[str, Curve] = {}
    step = 0
    for row in read_metrics(folder):
        step = row.pop("step")
        for name, value in row.items():
            if isinstance(value, int | float):
                curves.setdefault(name, []).append((step, float(value)))
    name = folder.relative_to(root).as_posix()
    return Run(
        name=folder.resolve().name if name == "." else name,
        folder=folder,
        step=step,
        steps=int(settings.get("train.steps", 0)),
        settings=settings,
        metrics={metric: curve[-1][1] for metric, curve in curves.items()},
        best=best_of(folder),
        curves={metric: _thinned(curve) for metric, curve in curves.items()},
    )


def _thinned(curve: Curve) -> Curve:
    stride = -(-len(curve) // MAX_POINTS)
    return [*curve[:-1:stride], curve[-1]]


def differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return the settings of each run that are not the same in all runs, by name of the run."""
    names = {name for run in runs for name in run.settings if name != "run"}
    differing = sorted(
        name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1
    )
    return {
        run.name: {name: run.settings[name] for name in differing if name in run.settings}
        for run in runs
    }


def scores_of(run: Run) -> dict[str, float]:
    """Return the newest scores of the evaluations of a run, such as `val/loss`."""
    return {name: value for name, value in run.metrics.items() if "/" in name}


# The HTML page.


WIDTH, HEIGHT, MARGIN = 440, 240, 44
COLORS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#3ca951",
    "#a463f2",
    "#6cc5b0",
    "#97bbf5",
    "#9c6b4e",
    "#ff8ab7",
    "#6b7280",
)
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1b1e23; background: #fff; }
table { border-collapse: collapse; margin-bottom: 1.5rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; vertical-align: top; }
th { border-bottom: 1px solid #c9ced6; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.curves { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg text { font-size: 11px; fill: #59616e; }
.samples { display: flex; flex-wrap: wrap; gap: 1rem; }
.samples figure { width: 144px; font-size: 13px; }
.samples figcaption { font-weight: 400; } img { max-width: 144px; }
"""


def write_page(path: str | Path, runs: Sequence[Run]) -> None:
    """Write one HTML file that compares runs; it loads nothing and contains no script."""
    different = differences(runs)
    color = {run.name: COLORS[number % len(COLORS)] for number, run in enumerate(runs)}
    metrics = sorted({name for run in runs for name in run.curves}, key=lambda it: ("/" in it, it))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>Runs</title><style>{_STYLE}</style></head><body>",
        f"<h1>{len(runs)} run{'s' if len(runs) > 1 else ''}</h1>",
        "<table><tr><th>run<th>step<th>loss<th>scores<th>best<th>settings that differ</tr>",
        *(_table_row(run, different[run.name], color[run.name]) for run in runs),
        '</table><h2>Curves</h2><div class="curves">',
        *(_chart(name, runs, color) for name in metrics),
        "</div>",
        *(_samples(run) for run in runs),
        "</body></html>",
    ]
    write_atomic(path, "\n".join(parts).encode())


def _table_row(run: Run, different: Mapping[str, Any], color: str) -> str:
    best = run.best
    kept = f"{escape(best.score)} {best.value:.4g}, step {best.step:,}" if best else ""
    scores = "<br>".join(f"{escape(name)} {value:.4g}" for name, value in scores_of(run).items())
    settings = "<br>".join(f"{escape(name)}={escape(str(it))}" for name, it in different.items())
    mark = f'<svg width="14" height="10"><rect width="10" height="10" fill="{color}"/></svg>'
    loss = f"{run.metrics['loss']:.4g}" if "loss" in run.metrics else ""
    return (
        f'<tr><td>{mark}{escape(run.name)}<td class="number">{run.step:,} of {run.steps:,}'
        f'<td class="number">{loss}<td>{scores}<td>{kept}<td>{settings}</tr>'
    )


def _chart(metric: str, runs: Sequence[Run], color: Mapping[str, str]) -> str:
    """Draw the curves of a metric as SVG."""
    shown = [(run, run.curves[metric]) for run in runs if metric in run.curves]
    last = max(curve[-1][0] for _, curve in shown)
    values = [value for _, curve in shown for _, value in curve]
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0

    def place(step: int, value: float) -> str:
        across = MARGIN + (WIDTH - MARGIN - 8) * step / max(last, 1)
        return f"{across:.1f},{8 + (HEIGHT - 32) * (high - value) / span:.1f}"

    lines = []
    for run, curve in shown:
        points, ink = [place(*point) for point in curve], color[run.name]
        x, y = points[-1].split(",")
        lines.append(
            f'<polyline fill="none" stroke="{ink}" stroke-width="1.5" points="{" ".join(points)}">'
            f'<title>{escape(run.name)}</title></polyline><circle cx="{x}" cy="{y}" r="2" '
            f'fill="{ink}"/>'
        )
    bottom = HEIGHT - 24
    labels = (
        f'<text x="2" y="16">{high:.4g}</text><text x="2" y="{bottom}">{low:.4g}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 6}">0</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">step {last:,}</text>'
        f'<path d="M{MARGIN} 8V{bottom}H{WIDTH - 8}" fill="none" stroke="#c9ced6"/>'
    )
    return (
        f'<figure><figcaption>{escape(metric)}</figcaption><svg width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(metric)} by step">{labels}'
        f"{''.join(lines)}</svg></figure>"
    )


def _samples(run: Run) -> str:
    """Show the newest sample captions of a run."""
    newest = max((run.folder / SAMPLES_FOLDER).glob(f"step_*/{CAPTIONS_FILE}"), default=None)
    if newest is None:
        return ""
    step = int(newest.parent.name.removeprefix("step_"))
    return (
        f"<h2>Captions of {escape(run.name)} at step {step:,}</h2>"
        f'<div class="samples">{"".join(_figures(newest))}</div>'
    )


def _figures(captions: Path) -> Iterator[str]:
    for line in captions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        image = base64.b64encode((captions.parent / Path(row["image"]).name).read_bytes()).decode()
        references = escape("; ".join(row["references"]))
        yield (
            f'<figure><img src="data:image/webp;base64,{image}" alt="{references}">'
            f"<figcaption>{escape(row['caption'])}<br><small>{references}</small></figcaption>"
            "</figure>"
        )
