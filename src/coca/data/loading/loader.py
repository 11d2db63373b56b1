"""Deterministic, resumable data loader over a weighted mixture of sources.

Sample g of a run, its caption and its augmentation are a pure function of (seed, g). The state of
the loader is therefore one number, the samples yielded so far. Resuming is exact for any number of
workers and ranks.

    g -> Mixture -> source, row -> Sample -> caption, pixels -> augmentation -> Batch
"""

import itertools
import math
import multiprocessing
import os
import pickle
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Thread
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch.utils.data import DataLoader, Sampler

from coca.core.config.frozen_config import Config, Fraction, digest
from coca.core.errors import ConfigError, DataError
from coca.core.malloc import keep_freed_memory
from coca.data.batch import Batch
from coca.data.loading.batches import Augmentation, AugmentStage, BatchDataset, Failure
from coca.data.loading.feature_file import FeatureFile, feature_identity
from coca.data.loading.mixture import Mixture
from coca.data.sample import BadSampleLog
from coca.data.sources.source import Source, SourceConfig
from coca.processing.processor import Processor

PRELOADED = ("coca.data.loading.loader", "coca.processing.augment")
"""Slow imports of the workers, preloaded in the forkserver."""

POLL_S = 5.0
"""Interval of liveness checks while the loader waits for workers, seconds."""


class LoaderConfig(Config):
    """Configuration of batches and data workers."""

    batch_size: PositiveInt = 256
    """Samples in a step, summed over all ranks."""

    workers: NonNegativeInt = 0
    """Worker processes on each rank; 0 loads data in the training process."""

    prefetch: PositiveInt = 2
    """Batches that each worker prefetches."""

    timeout_s: PositiveFloat = 600.0
    """Seconds to wait for a batch of a worker before the run saves and stops; above 0."""

    max_bad_fraction: Fraction = 0.01
    """Fraction of samples that may be unusable before the run stops, 0 to 1."""

    class_names: tuple[str, ...] = ()
    """Class names in the order of the classification head's outputs; empty: no class targets."""

    class_from: Literal["labels", "answers"] = "labels"
    """Field of the sample that has its classes. Labels must all be in `class_names`. Answers are
    normalised; the target of each is its soft score by the official VQA accuracy, and answers that
    are not in `class_names` are ignored."""

    images_per_sample: PositiveInt = 1
    """Images of each sample; above 1 for image pairs and for the frames of a video."""

    @model_validator(mode="after")
    def _check_rules(self) -> "LoaderConfig":
        if len(set(self.class_names)) < len(self.class_names):
            twice = next(n for n in self.class_names if self.class_names.count(n) > 1)
            raise ConfigError(f"class_names has {twice!r} twice; each must occur once")
        return self


class Loader:
    """Infinite iterator over the batches of one rank.

    Batch t of the run has the samples t * batch_size to (t + 1) * batch_size - 1. Each rank gets
    an equal, contiguous part of them. A bad sample is replaced by another sample of its source,
    counted and logged. Batches therefore stay full, and the order of all other samples is kept.

    A new iteration resumes where the last one stopped. Workers are started by a forkserver, never
    forked from this process: a lock that one of its threads holds would never be released in the
    child. So each worker has its own copy of the sources, and a script that trains with workers
    needs the guard `if __name__ == "__main__":`.

    Args:
        sources: Each with its config, which selects the text to read.
        config: See `LoaderConfig`.
        processor: Image transform and tokenizer.
        seed: Not negative; with the weights and the sources it determines the order of all samples.
        augment: Replaces the processor's deterministic transform.
        stages: Replace `augment` early in the run, by ascending `until`; images may be smaller
            there (progressive resolution). The first sample of a batch selects its stage.
        rank: Rank of this process, 0 to `world_size - 1`.
        world_size: Number of data-parallel processes; must divide `batch_size`.
        start: Samples that the run has seen before, over all ranks.
        bad_log: JSON-lines file that lists bad samples.
        pin_memory: Copy batches to page-locked memory for faster transfers to a GPU. This opens a
            CUDA context.
        features: A feature file for each source; batches then contain features of a frozen image
            encoder in place of images, and `augment` and `stages` are not used.
    """

    def __init__(
        self,
        sources: Sequence[tuple[SourceConfig, Source]],
        config: LoaderConfig,
        processor: Processor,
        *,
        seed: int,
        augment: Augmentation | None = None,
        stages: Sequence[AugmentStage] = (),
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        bad_log: Path | None = None,
        pin_memory: bool = False,
        features: Sequence[FeatureFile] = (),
    ) -> None:
        _check_numbers(config.batch_size, world_size, rank, seed, start)
        configs = [source_config for source_config, _ in sources]
        opened = [source for _, source in sources]
        mixture = Mixture(
            [len(source) for source in opened],
            [source_config.weight for source_config in configs],
            seed=seed,
            block_sizes=[source.block_size for source in opened],
        )
        self.config = config
        self.state = start
        """Samples yielded so far, over all ranks; sufficient to resume."""
        self.fingerprint = digest(
            {
                "seed": seed,
                "turns": mixture.turns,
                "sources": [(source.fingerprint, source.block_size) for source in opened],
                **(feature_identity(features) if features else {}),
            }
        )
        """Hash of the order of samples; a run must resume with an equal one."""
        self.bad_samples = BadSampleLog(bad_log, config.max_bad_fraction)
        self.pin_memory = pin_memory
        per_rank = config.batch_size // world_size
        self._offset = rank * per_rank
        self._dataset = BatchDataset(
            configs,
            opened,
            mixture,
            processor,
            augment,
            per_rank,
            config.class_names,
            stages,
            self._offset,
            by_answers=config.class_from == "answers",
            images_per_sample=config.images_per_sample,
            features=features,
        )

    def __iter__(self) -> Iterator[Batch]:
        workers, timeout_s = self.config.workers, self.config.timeout_s
        batches = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=_Starts(self.state + self._offset, self.config.batch_size),
            num_workers=workers,
            prefetch_factor=self.config.prefetch if workers else None,
            worker_init_fn=_begin_worker,
            multiprocessing_context=_worker_context() if workers else None,
            timeout=min(timeout_s, POLL_S) if workers else 0,
            pin_memory=self.pin_memory,
            # Separate, since torch would draw from the global generator that training uses.
            generator=torch.Generator(),
        )
        for batch in _with_clear_errors(_started(batches), timeout_s):
            if isinstance(batch, Failure):
                self.bad_samples.add(0, batch.bad)
                raise DataError(batch.message, reason="no_usable_sample")
            self.bad_samples.add(len(batch.keys), batch.bad)
            self.state += self.config.batch_size
            yield batch


class _Starts(Sampler[int]):
    """Infinite sampler of the first global index of each batch."""

    def __init__(self, start: int, step: int) -> None:
        self._start = start
        self._step = step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start, self._step)


def _worker_context() -> BaseContext:
    """Return the start method of workers: a preloaded forkserver if available, else spawn."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Without effect if the forkserver already runs; workers then import the modules themselves.
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _started(batches: DataLoader[Batch | Failure]) -> Iterator[Batch | Failure]:
    """Start the workers and return the iterator."""
    try:
        with _interrupts_held(), warnings.catch_warnings():
            # The warning recommends forked workers.
            warnings.filterwarnings("ignore", message="Got pickle error")
            return iter(batches)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise DataError(
            f"a source cannot be sent to data workers ({error}); it must be picklable, or set "
            "data.loader.workers to 0",
            reason="not_picklable",
        ) from error


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block SIGINT within the block; processes that start in it inherit the signal mask.

    Ctrl-C reaches all processes of the foreground group. The training process alone handles it and
    ends the workers.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _with_clear_errors(
    batches: Iterator[Batch | Failure], timeout_s: float
) -> Iterator[Batch | Failure]:
    """Pass items through; raise a `DataError` for a worker that died or hangs."""
    # Polls are counted instead of seconds, so that suspending the machine does not use up the wait.
    polls = math.ceil(timeout_s / POLL_S)
    missed, came = 0, False
    while True:
        try:
            batch = next(batches)
        except RuntimeError as error:
            if str(error).startswith("DataLoader timed out"):
                missed += 1
                if missed < polls:
                    continue
                raise DataError(
                    f"no batch came from the data workers for {timeout_s:g} s; a disk or a server "
                    "does not answer, or data.loader.timeout_s is too short for one batch",
                    reason="worker_hangs",
                ) from error
            if not str(error).startswith("DataLoader worker"):
                raise
            advice = "" if came else _ADVICE_AT_START
            raise DataError(
                f"a data worker was stopped from outside, most often for want of memory ({error}); "
                f"fewer workers or a smaller prefetch need less{advice}",
                reason="worker_killed",
            ) from error
        missed, came = 0, True
        yield batch


_ADVICE_AT_START = (
    '; a script that trains needs the guard `if __name__ == "__main__":`, and its own sources must '
    "be in an importable module"
)


def _begin_worker(worker: int) -> None:
    Thread(target=_end_with_trainer, name="waiting for the trainer's end", daemon=True).start()
    # For systems where the signal cannot be blocked while workers start.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As in the training process: decoding allocates large blocks, too.
    keep_freed_memory()
    # Workers share the cores already.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _end_with_trainer() -> None:
    """Exit this worker when the training process exits or is killed.

    Torch's own watchdog checks the parent, which here is the forkserver. That server lives as long
    as one of its workers.
    """
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)


def check_batch_size(batch_size: int, world_size: int) -> None:
    """Raise if a batch cannot be divided among the ranks."""
    if batch_size % world_size:
        below = batch_size // world_size * world_size
        near = ", ".join(str(size) for size in (below, below + world_size) if size)
        raise ConfigError(
            f"batch_size {batch_size} is not divisible by {world_size} ranks; nearest valid sizes: "
            f"{near}"
        )


def _check_numbers(batch_size: int, world_size: int, rank: int, seed: int, start: int) -> None:
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} is not among 0 to world_size - 1 = {world_size - 1}")
    check_batch_size(batch_size, world_size)
    if seed < 0 or start < 0:
        raise ConfigError(f"seed {seed} and start {start} must both be 0 or more")
