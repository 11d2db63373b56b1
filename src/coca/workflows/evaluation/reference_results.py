"""Published results of other models on benchmarks, with their sources."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from coca.core.config.serialization import load_config
from coca.core.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """Published scores of one model on one benchmark."""

    model: str
    """Name of the model in the source."""
    source: str
    """A key of `sources`."""
    table: str
    """Table or file in the source."""
    scores: tuple[float | None, ...]
    """Scores in the order of the benchmark's metrics; null if the source has none."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set with its metrics, and published results of other models."""

    title: str
    """Title for display."""
    metrics: tuple[str, ...]
    """Metric names of this package's tasks."""
    models: tuple[PublishedModel, ...]
    """Models, the strongest first within each source."""

    def __post_init__(self) -> None:
        for model in self.models:
            if len(model.scores) != len(self.metrics):
                raise ConfigError(
                    f"{model.model} has {len(model.scores)} scores for {len(self.metrics)} metrics"
                )

    def score(self, model: PublishedModel, metric: str) -> float | None:
        """Return the published score of a model, or None."""
        return dict(zip(self.metrics, model.scores, strict=True)).get(metric)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Content of `published.yaml`."""

    sources: dict[str, str]
    """Short names to citations."""
    benchmarks: dict[str, Benchmark]
    """Benchmarks by the names of `TaskConfig.benchmark`."""


@cache
def published() -> Published:
    """Load `published.yaml`."""
    text = files("coca.workflows").joinpath("published.yaml").read_text(encoding="utf-8")
    return load_config(Published, yaml.safe_load(text))


def benchmark_named(name: str) -> Benchmark:
    """Return a benchmark by name.

    Raises:
        ConfigError: The name is unknown; the message suggests the nearest.
    """
    known: Mapping[str, Benchmark] = published().benchmarks
    if name not in known:
        raise ConfigError(f"benchmark {name!r} is unknown; {did_you_mean(name, known)}")
    return known[name]
