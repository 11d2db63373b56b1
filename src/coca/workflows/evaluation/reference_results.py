"""What other models are reported to reach, for the tables beside ours; figures with their place."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from coca.core.config import load_config
from coca.core.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """What one model reaches on one benchmark."""

    model: str
    """Its name there."""
    source: str
    """A key of `sources`."""
    place: str
    """The table or file in the source."""
    scores: tuple[float | None, ...]
    """In the order of the benchmark's metrics; null where the source has none."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set and how it is scored, with what is known of other models."""

    title: str
    """For people."""
    metrics: tuple[str, ...]
    """As tasks of this package call them."""
    models: tuple[PublishedModel, ...]
    """The strongest first of each source."""

    def __post_init__(self) -> None:
        for model in self.models:
            if len(model.scores) != len(self.metrics):
                raise ConfigError(
                    f"{model.model} has {len(model.scores)} scores for {len(self.metrics)} metrics"
                )

    def score(self, model: PublishedModel, metric: str) -> float | None:
        """What the model reaches, if it is told."""
        return dict(zip(self.metrics, model.scores, strict=True)).get(metric)


@dataclass(frozen=True, kw_only=True)
class Published:
    """The whole file."""

    sources: dict[str, str]
    """Short names to what is cited."""
    benchmarks: dict[str, Benchmark]
    """By the names that `TaskConfig.benchmark` takes."""


@cache
def published() -> Published:
    """Everything in `published.yaml`."""
    text = files("coca.workflows").joinpath("published.yaml").read_text(encoding="utf-8")
    return load_config(Published, yaml.safe_load(text))


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ConfigError: There is none; the message holds the nearest.
    """
    known: Mapping[str, Benchmark] = published().benchmarks
    if name not in known:
        raise ConfigError(f"benchmark {name!r} is unknown; {did_you_mean(name, known)}")
    return known[name]
