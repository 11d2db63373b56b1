"""Endless batches from weighted sources, in an order that depends on the seed alone.

Sample g of a run, its caption and its augmentation follow from (seed, g) without any memory. The
loader's whole state is therefore one number, samples handed out, and is exact for any number of
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
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Thread
from typing import Literal

import torch
from torch.utils.data import DataLoader, Sampler

from coca.core.config import digest
from coca.core.errors import ConfigError, DataError
from coca.core.malloc import keep_freed_memory
from coca.data.loading.bad_samples import BadSampleLog
from coca.data.loading.batches import Augmentation, BatchDataset, Failure, Stage
from coca.data.loading.mixture import Mixture
from coca.data.sample import Batch
from coca.data.sources.base import Source, SourceConfig
from coca.processing.processor import Processor

PRELOADED = ("coca.data.loading.loader", "coca.processing.augment")
"""What workers need and takes seconds to import; the server that forks them has it in memory."""

LOOK_S = 5.0
"""Seconds between two looks at workers that are waited for, whether they still live."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How samples are put into batches."""

    batch_size: int = 256
    """Samples in a step, over all ranks together."""

    workers: int = 0
    """Processes that read and decode, on each rank; 0 does it in the training process."""

    prefetch: int = 2
    """Batches that each worker prepares ahead."""

    timeout_s: float = 600.0
    """Seconds to wait for a batch of a worker, after which the run saves and stops; above 0."""

    max_bad_fraction: float = 0.01
    """Share of samples that may be unusable before the run stops, 0 to 1."""

    class_names: tuple[str, ...] = ()
    """Labels in the order of the classification head's outputs; empty makes no class targets."""

    class_from: Literal["labels", "answers"] = "labels"
    """What names a sample's classes. Each label must be listed. Answers are listed normalised, each
    counts by the official accuracy of VQA, and one that is not listed for nothing."""

    pictures: int = 1
    """Pictures of each sample; above 1 for pairs, and for the frames of a video."""

    def __post_init__(self) -> None:
        faults = []
        if self.batch_size < 1:
            faults.append(f"batch_size {self.batch_size} is below 1")
        if self.workers < 0:
            faults.append(f"workers {self.workers} is below 0")
        if self.pictures < 1:
            faults.append(f"images {self.pictures} is below 1")
        if self.prefetch < 1:
            faults.append(f"prefetch {self.prefetch} is below 1")
        if not self.timeout_s > 0:
            faults.append(f"timeout_s {self.timeout_s:g} is not above 0")
        if not 0 <= self.max_bad_fraction <= 1:
            faults.append(f"max_bad_fraction {self.max_bad_fraction} is outside 0 to 1")
        if len(set(self.class_names)) < len(self.class_names):
            twice = next(n for n in self.class_names if self.class_names.count(n) > 1)
            faults.append(f"class_names holds {twice!r} twice")
        if faults:
            raise ConfigError("; ".join(faults))


class Loader:
    """Batches for one rank, for ever.

    Batch t of the run holds the samples t * batch_size to (t + 1) * batch_size - 1, and each rank a
    contiguous, equal part of them. A bad sample is replaced by another of its source, so that
    batches stay full and the order elsewhere stays as it was; it is counted and listed.

    Iterating again goes on where the last iteration stopped. Workers are never forked from this
    process: a lock that one of its threads holds at that moment would be held in them for ever.
    They come from a server that does nothing else. So each has its own copy of the sources, and a
    script that trains with workers must stand under `if __name__ == "__main__":`.

    Args:
        sources: Each with the config that says how its words become captions.
        config: See `LoaderConfig`.
        processor: Turns pixels and words into tensors.
        seed: Not negative; with the weights and the sources it fixes the order of all samples.
        augment: Takes the place of the processor's own, unrandom transform.
        stages: What takes the place of both in the early run, by rising `until`: images may be
            smaller there (progressive resolution). The first sample of a batch decides for all.
        rank: This process among `world_size`, from 0.
        world_size: Processes that share each batch; must divide `batch_size`.
        start: Samples that the run has seen before, over all ranks.
        bad_log: File in which bad samples are listed, one JSON line each.
        pin_memory: Copy batches into page-locked memory, from which they reach a GPU faster. It
            opens a CUDA context.

    Raises:
        ConfigError: `world_size` does not divide `batch_size`, or a number is out of range.
    """

    def __init__(
        self,
        sources: Sequence[tuple[SourceConfig, Source]],
        config: LoaderConfig,
        processor: Processor,
        *,
        seed: int,
        augment: Augmentation | None = None,
        stages: Sequence[Stage] = (),
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        bad_log: Path | None = None,
        pin_memory: bool = False,
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
        """Samples handed out so far, over all ranks: all that is needed to go on from here."""
        self.fingerprint = digest(
            {
                "seed": seed,
                "turns": mixture.turns,
                "sources": [(source.fingerprint, source.block_size) for source in opened],
            }
        )
        """Changes when the order of samples does; a run must not go on under another one."""
        self.bad_samples = BadSampleLog(bad_log, config.max_bad_fraction)
        self.pin_memory = pin_memory
        share = config.batch_size // world_size
        self._offset = rank * share
        self._parts = BatchDataset(
            configs,
            opened,
            mixture,
            processor,
            augment,
            share,
            config.class_names,
            stages,
            self._offset,
            by_answers=config.class_from == "answers",
            pictures=config.pictures,
        )

    def __iter__(self) -> Iterator[Batch]:
        workers, timeout_s = self.config.workers, self.config.timeout_s
        parts = DataLoader(
            self._parts,
            batch_size=None,
            sampler=_Starts(self.state + self._offset, self.config.batch_size),
            num_workers=workers,
            prefetch_factor=self.config.prefetch if workers else None,
            worker_init_fn=_begin_worker,
            multiprocessing_context=_own_processes() if workers else None,
            timeout=min(timeout_s, LOOK_S) if workers else 0,
            pin_memory=self.pin_memory,
            # Its own, since torch would draw a number from the global one that training uses.
            generator=torch.Generator(),
        )
        for part in _with_clear_errors(_started(parts), timeout_s):
            if isinstance(part, Failure):
                self.bad_samples.add(0, part.bad)
                raise DataError(part.message, reason="no_usable_sample")
            self.bad_samples.add(len(part.keys), part.bad)
            self.state += self.config.batch_size
            yield part


class _Starts(Sampler[int]):
    """The first sample of each part, without end."""

    def __init__(self, start: int, step: int) -> None:
        self._start = start
        self._step = step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start, self._step)


def _own_processes() -> BaseContext:
    """How workers start: afresh, and where the system can, from a server that is warm."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Without effect if the server runs already; workers then import for themselves.
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _started(parts: DataLoader[Batch | Failure]) -> Iterator[Batch | Failure]:
    """The iterator, with its workers on their way."""
    try:
        with _interrupts_held(), warnings.catch_warnings():
            # It would have the workers forked.
            warnings.filterwarnings("ignore", message="Got pickle error")
            return iter(parts)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise DataError(
            f"a source cannot be sent to data workers ({error}); it must be picklable, or set "
            "data.loader.workers to 0",
            reason="not_picklable",
        ) from error


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the end of the block; processes that start within never get to know it.

    It reaches all processes of a command at once. The training process decides when to end, and
    ends these.
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
    parts: Iterator[Batch | Failure], timeout_s: float
) -> Iterator[Batch | Failure]:
    """The same items; a worker that ended or hangs becomes a sentence."""
    # Looks are counted, and not seconds, so that a machine that slept wakes up to a whole wait.
    looks = math.ceil(timeout_s / LOOK_S)
    missed, came = 0, False
    while True:
        try:
            part = next(parts)
        except RuntimeError as error:
            if str(error).startswith("DataLoader timed out"):
                missed += 1
                if missed < looks:
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
        yield part


_ADVICE_AT_START = (
    '; a script that trains must stand under `if __name__ == "__main__":`, and its own sources in '
    "a module that can be imported"
)


def _begin_worker(worker: int) -> None:
    Thread(target=_end_with_trainer, name="waiting for the trainer's end", daemon=True).start()
    # Where the signal cannot be held while workers start.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As the training process does: decoding asks for large blocks, too.
    keep_freed_memory()
    # Workers share the cores already.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _end_with_trainer() -> None:
    """End this worker when the process that trains does, killed or not.

    Torch's own watch looks at the parent, which is the server here, and the server lives as long as
    one of its workers.
    """
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)


def _check_numbers(batch_size: int, world_size: int, rank: int, seed: int, start: int) -> None:
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} is not among 0 to world_size - 1 = {world_size - 1}")
    if batch_size % world_size:
        below = batch_size // world_size * world_size
        near = ", ".join(str(size) for size in (below, below + world_size) if size)
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared by {world_size} ranks; near sizes that can: "
            f"{near}"
        )
    if seed < 0 or start < 0:
        raise ConfigError(f"seed {seed} and start {start} must both be 0 or more")
