"""Report of an evaluation, next to the results of published models."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import yaml
from pydantic import model_validator

from coca.core.config.frozen_config import Config, load_config, to_dict
from coca.core.errors import ConfigError, MissingExtraError, did_you_mean
from coca.core.files.atomic import write_atomic
from coca.core.provenance import commit_shown
from coca.metrics.intervals import interval_shown
from coca.predict.predictor import Predictor
from coca.tasks import TaskConfig, TaskResult
from coca.tasks.baselines import baseline_shown, without_baselines
from coca.tasks.task import Confusion, ReportSamples
from coca.workflows.evaluation.report import (
    Block,
    Number,
    ReportTable,
    Section,
    parameters_shown,
    render,
    render_markdown,
)

# PublishedResults results of other models on benchmarks, with their sources.


class PublishedModel(Config):
    """PublishedResults scores of one model on one benchmark."""

    model: str
    """Name of the model in the source."""
    source: str
    """A key of `sources`."""
    table: str
    """ReportTable or file in the source."""
    scores: tuple[float | None, ...]
    """Scores in the order of the benchmark's metrics; null if the source has none."""


class Benchmark(Config):
    """A data set with its metrics, and published results of other models."""

    title: str
    """Title for display."""
    metrics: tuple[str, ...]
    """Metric names of this package's tasks."""
    models: tuple[PublishedModel, ...]
    """Models, the strongest first within each source."""

    @model_validator(mode="after")
    def _check_rules(self) -> "Benchmark":
        for model in self.models:
            if len(model.scores) != len(self.metrics):
                raise ConfigError(
                    f"{model.model} has {len(model.scores)} scores for {len(self.metrics)} metrics"
                )
        return self

    def score(self, model: PublishedModel, metric: str) -> float | None:
        """Return the published score of a model, or None."""
        return dict(zip(self.metrics, model.scores, strict=True)).get(metric)


class PublishedResults(Config):
    """Content of `published.yaml`."""

    sources: dict[str, str]
    """Short names to citations."""
    benchmarks: dict[str, Benchmark]
    """Benchmarks by the names of `TaskConfig.benchmark`."""


@cache
def published() -> PublishedResults:
    """Load `published.yaml`."""
    text = files("coca.workflows").joinpath("published.yaml").read_text(encoding="utf-8")
    return load_config(PublishedResults, yaml.safe_load(text))


def benchmark_named(name: str) -> Benchmark:
    """Return a benchmark by name."""
    known: Mapping[str, Benchmark] = published().benchmarks
    if name not in known:
        raise ConfigError(f"benchmark {name!r} is unknown; {did_you_mean(name, known)}")
    return known[name]


# Report of an evaluation: a table over all tasks, then each task with examples and images.


logger = logging.getLogger(__name__)

Row: TypeAlias = list[str | Number | None]

Comparison: TypeAlias = Mapping[str, Sequence[TaskResult]]
"""Other models by name, with their results on the same tasks in the same order."""

NO_COMPARISON: Comparison = MappingProxyType({})

INTERVAL = "95 %"
"""Heading of confidence intervals over the samples."""

LISTED = 40
"""Maximum number of classes in a table; of more, the best and the worst are listed."""

REFERENCES = ("paper", "open_clip")
"""Sources whose strongest model is a column of the table over all tasks."""


@dataclass(frozen=True)
class Evaluated:
    """A task result with its provenance."""

    result: TaskResult
    """Result of the task."""
    record: Mapping[str, Any]
    """Code, versions and machine; see `coca.core.provenance`."""
    seconds: float
    """Duration of the task, in seconds."""


def write_reports(
    folder: Path,
    predictor: Predictor,
    configs: Sequence[TaskConfig],
    entries: Sequence[Evaluated],
    *,
    name: str,
    compare: Comparison = NO_COMPARISON,
) -> list[Path]:
    """Write `report.json`, `report.md` and, if the extra `report` is installed, `report.html`.

    An existing report of other tasks or of another model is renamed to `report-1.json` and so on.
    """
    title, lead = f"Scores of {name or 'a model'}", _lead(predictor, entries)
    pairs = list(zip(configs, [entry.result for entry in entries], strict=True))
    sections = _sections(pairs, compare)
    files = {
        "report.json": _as_json(predictor, configs, entries, compare),
        "report.md": render_markdown(title, lead, sections),
    }
    try:
        files["report.html"] = render(title, lead, sections)
    except MissingExtraError as error:
        logger.warning("there is no report.html: %s", error)
    _keep_earlier(folder, json.loads(files["report.json"]))
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in files]


def _keep_earlier(folder: Path, new: Mapping[str, Any]) -> None:
    """Rename a report of other tasks or of another model to `report-1`, `report-2` and so on."""
    try:
        old = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if _subject(old) == _subject(new):
        return
    found = [_KEPT.fullmatch(path.name) for path in folder.iterdir()]
    numbers = [int(match[1]) for match in found if match]
    for name in ("report.md", "report.html", "report.json"):
        if (folder / name).exists():
            stem, dot, suffix = name.partition(".")
            (folder / name).replace(folder / f"{stem}-{max(numbers, default=0) + 1}{dot}{suffix}")


_KEPT = re.compile(r"report-(\d+)\.\w+")


def _subject(report: Mapping[str, Any]) -> Any:
    """Return the identity of a report: model, tasks with settings, and compared models."""
    tasks = [(task.get("config"), sorted(task.get("compare", {}))) for task in report["tasks"]]
    return report.get("fingerprint"), tasks


def overview(
    pairs: Sequence[tuple[TaskConfig, TaskResult]], others: Comparison = NO_COMPARISON
) -> ReportTable:
    """Build the table over all tasks: headline metrics, compared with published results."""
    benchmarks = [benchmark_named(c.benchmark) if c.benchmark else None for c, _ in pairs]
    known = [it for it in benchmarks if it]
    sources = [source for source in REFERENCES if any(_strongest(it, source) for it in known)]
    rows: list[Row] = []
    named: dict[str, str] = {}
    for number, ((config, result), benchmark) in enumerate(zip(pairs, benchmarks, strict=True)):
        where = f"{result.task}, {config.data.title}"
        for metric in result.headline or list(result.metrics)[:1]:
            row: Row = [where, display_name(metric), result.metrics[metric]]
            row.append(interval_shown(result.intervals.get(metric)) or None)
            row += [other[number].metrics.get(metric) for other in others.values()]
            row.append(result.metrics.get(f"chance_{metric}"))
            row.append(baseline_shown(result.metrics, metric) or None)
            for source in sources:
                strongest = _strongest(benchmark, source) if benchmark else None
                row.append(benchmark.score(strongest, metric) if benchmark and strongest else None)
                if strongest:
                    named[strongest.model] = published().sources[source]
            rows.append(row)
    without = [c.data.title for (c, _), it in zip(pairs, benchmarks, strict=True) if it is None]
    columns = ["task", "score", "this model", INTERVAL, *others, "chance", "strongest baseline"]
    columns += [_HEADS[source] for source in sources]
    return _without_empty(columns, rows, _note(named, list(dict.fromkeys(without))))


_HEADS = {"paper": "the paper", "open_clip": "open_clip"}


def display_name(metric: str) -> str:
    """Format the name of a metric for a table."""
    return metric.replace("_", " ")


def _note(named: dict[str, str], without: Sequence[str]) -> str:
    parts = [f"{model}: {source}." for model, source in named.items()]
    if without:
        parts.append(f"No published figures of CoCa are known for {', '.join(without)}.")
    return " ".join(parts)


def _strongest(benchmark: Benchmark, source: str) -> PublishedModel | None:
    return next((model for model in benchmark.models if model.source == source), None)


def _lead(predictor: Predictor, entries: Sequence[Evaluated]) -> str:
    network = getattr(predictor, "model", None)
    weights = [] if network is None else list(network.parameters())
    size = parameters_shown(sum(weight.numel() for weight in weights))
    last = max((entry.record for entry in entries), key=lambda record: record["started"])
    parts = [
        f"{size} parameters, fingerprint {predictor.model_fingerprint}",
        f"{last['started'][:10]}, {last['machine']['cores']} cores of {last['machine']['cpu']}",
    ]
    if last["code"] is not None:
        parts.append(commit_shown(last["code"]))
    return "; ".join(parts) + "."


def _as_json(
    predictor: Predictor,
    configs: Sequence[TaskConfig],
    entries: Sequence[Evaluated],
    compare: Comparison,
) -> str:
    content = {
        "model": predictor.source,
        "fingerprint": predictor.model_fingerprint,
        "tasks": [
            {
                "task": entry.result.task,
                "metrics": dict(entry.result.metrics),
                "compare": {name: dict(results[at].metrics) for name, results in compare.items()},
                "intervals": {name: list(it) for name, it in entry.result.intervals.items()},
                "headline": list(entry.result.headline),
                "samples": entry.result.samples,
                "seconds": round(entry.seconds, 3),
                "bad": list(entry.result.bad),
                "notes": list(entry.result.notes),
                "details": dict(entry.result.details),
                "per_class": dict(entry.result.report_samples.per_class),
                "config": to_dict(config),
                "record": dict(entry.record),
            }
            for at, (config, entry) in enumerate(zip(configs, entries, strict=True))
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def _sections(
    pairs: Sequence[tuple[TaskConfig, TaskResult]], compare: Comparison = NO_COMPARISON
) -> list[Section]:
    """Build all sections."""
    text = "Scores are fractions, 0 to 1; CIDEr is 0 to 10. Chance is the score of guessing. "
    text += "95 % is the interval over the samples, of this one model."
    sections = [Section("All tasks", text, [overview(pairs, compare)])]
    for number, (config, result) in enumerate(pairs):
        others = {name: results[number] for name, results in compare.items()}
        sections.append(_section(config, result, others))
    return sections


def _section(config: TaskConfig, result: TaskResult, others: Mapping[str, TaskResult]) -> Section:
    samples = result.report_samples
    blocks: list[Block] = [_scores(config, result, others)]
    if samples.per_class:
        shares, note = _ranked(samples)
        blocks.append(
            ReportTable(["class", "accuracy"], [[*pair] for pair in shares.items()], note)
        )
    if samples.confusion is not None:
        blocks += [_matrix(samples.confusion), *_mistakes(samples.confusion)]
    blocks += samples.rows
    text = " ".join(f"{it}." for it in (f"{result.samples:,} samples", *result.notes))
    if result.bad:
        more = f" and {len(result.bad) - 1:,} more" if len(result.bad) > 1 else ""
        text += f" Left out, since they cannot be read: {result.bad[0]}{more}."
    return Section(f"{result.task}: {config.data.title}", text, blocks)


def _scores(
    config: TaskConfig, result: TaskResult, others: Mapping[str, TaskResult]
) -> ReportTable:
    """Build the table of all metrics, with other models and published results."""
    benchmark = benchmark_named(config.benchmark) if config.benchmark else None
    models = benchmark.models if benchmark else ()
    rows: list[Row] = [
        [
            display_name(name),
            value,
            interval_shown(result.intervals.get(name)) or None,
            *(other.metrics.get(name) for other in others.values()),
            result.metrics.get(f"chance_{name}"),
            baseline_shown(result.metrics, name) or None,
            *(benchmark.score(model, name) for model in models if benchmark),
        ]
        for name, value in without_baselines(result.metrics).items()
    ]
    tables = dict.fromkeys(
        f"{published().sources[model.source]} ({model.table})" for model in models
    )
    note = f"{benchmark.title}. {'; '.join(tables)}." if benchmark else ""
    columns = ["score", "this model", INTERVAL, *others, "chance", "strongest baseline"]
    columns += [model.model for model in models]
    return _without_empty(columns, rows, note)


def _without_empty(columns: Sequence[str], rows: Sequence[Row], note: str) -> ReportTable:
    """Build a table without its empty columns, such as chance for tasks without it."""
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    return ReportTable(
        [columns[at] for at in kept], [[row[at] for at in kept] for row in rows], note
    )


def _ranked(samples: ReportSamples) -> tuple[dict[str, float], str]:
    """Sort classes by accuracy, highest first; return them with a note on omitted classes."""
    order = sorted(samples.per_class.items(), key=lambda item: -item[1])
    if len(order) <= LISTED:
        return dict(order), ""
    kept = order[: LISTED // 2] + order[-LISTED // 2 :]
    return dict(kept), f"The best and the worst {LISTED // 2} of {len(order):,} classes."


def _matrix(confusion: Confusion) -> ReportTable:
    rows: list[Row] = [
        [f"is {name}", *counts]
        for name, counts in zip(confusion.names, confusion.counts, strict=True)
    ]
    note = "Confusion matrix: number of samples by true class (row) and predicted class (column)."
    if len(confusion.names) < confusion.classes:
        note += f" The {len(confusion.names)} most confused of {confusion.classes:,} classes."
    return ReportTable(["true class", *confusion.names], rows, note)


def _mistakes(confusion: Confusion) -> list[Block]:
    """Build the table of the most frequent mistakes; none without a mistake."""
    names = confusion.names
    mistakes: Iterator[tuple[int, str, str]] = (
        (count, names[row], names[column])
        for row, line in enumerate(confusion.counts)
        for column, count in enumerate(line)
        if row != column and count
    )
    most = sorted(mistakes, reverse=True)[:10]
    if not most:
        return []
    note = "The ten most frequent mistakes."
    return [
        ReportTable(["is", "taken for", "samples"], [[a, b, count] for count, a, b in most], note)
    ]
