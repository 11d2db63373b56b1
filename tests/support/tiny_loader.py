"""Loaders over samples in memory."""

import itertools
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch

from coca.data.batch import Batch
from coca.data.loading.batches import Augmentation
from coca.data.loading.loader import Loader, LoaderConfig
from coca.data.sample import Sample
from coca.data.sources.source import Source, SourceConfig
from coca.processing.augment import Augment, AugmentConfig
from coca.processing.processor import Processor
from tiny_data import MemorySource, make_samples, tiny_processor


def named(name: str, **settings: Any) -> SourceConfig:
    return SourceConfig(kind="memory", path=name, **settings)


def make_loader(
    *sources: Source,
    configs: Sequence[SourceConfig] = (),
    batch_size: int = 8,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    processor: Processor | None = None,
    **options: Any,
) -> Loader:
    configs = configs or [named(f"m{number}") for number in range(len(sources))]
    return Loader(
        list(zip(configs, sources, strict=True)),
        LoaderConfig(batch_size=batch_size, **(settings or {})),
        processor or tiny_processor(),
        seed=seed,
        **options,
    )


def take(loader: Loader, count: int) -> list[Batch]:
    batches = iter(loader)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()  # type: ignore[attr-defined]


def keys(batches: Sequence[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def lively() -> Augmentation:
    settings = AugmentConfig(min_scale=0.3, flip=0.5, color=0.4)
    return Augment(settings, tiny_processor().image_config)


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.keys == b.keys and torch.equal(a.images, b.images) and torch.equal(a.tokens, b.tokens)
        for a, b in zip(first, second, strict=True)
    )


def two_sources() -> tuple[Source, Source]:
    return (
        MemorySource(make_samples(40, prefix="a"), fingerprint="a", block_size=4),
        MemorySource(make_samples(15, prefix="b"), fingerprint="b"),
    )


class Interrupting(MemorySource):
    def read(self, row: int) -> Sample:
        # As a terminal does to all processes of a command; here only to the one that reads.
        os.kill(os.getpid(), signal.SIGINT)
        return super().read(row)


class Silent(MemorySource):
    """A disk that does not answer."""

    def read(self, row: int) -> Sample:
        time.sleep(60)
        return super().read(row)


class Slow(MemorySource):
    def read(self, row: int) -> Sample:
        time.sleep(0.1)
        return super().read(row)


class Faulty(MemorySource):
    """A source with a fault of its own, which is none of the data."""

    def read(self, row: int) -> Sample:
        raise RuntimeError("a bug")
