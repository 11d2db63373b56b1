import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from coca.core.errors import ConfigError, DataError
from coca.data.loading.loader import LoaderConfig
from coca.data.sample import BadSample, BadSampleLog
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig, ShardWriter
from range_server import Serve
from tiny_data import MemorySource, make_samples, tiny_processor
from tiny_loader import (
    Interrupting,
    Silent,
    keys,
    lively,
    make_loader,
    named,
    same,
    take,
    two_sources,
)


def bad(row: int, *, source: str = "s", reason: str = "truncated") -> BadSample:
    return BadSample(f"k{row}", source, row, reason, f"sample {row} is bad")


def rows(path: Path) -> list[tuple[str, int]]:
    return [(e["source"], e["row"]) for e in map(json.loads, path.read_text().splitlines())]


def test_a_later_run_lists_nothing_again_even_after_a_half_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    BadSampleLog(path, 1.0).add(10, [bad(1), bad(2)])
    path.write_bytes(path.read_bytes()[:-20])
    log = BadSampleLog(path, 1.0)
    log.add(10, [bad(1), bad(2), bad(3)])
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    assert [json.loads(lines[n])["row"] for n in (0, 2, 3)] == [1, 2, 3]


def test_too_many_bad_samples_stop_the_run_with_the_counts(tmp_path: Path) -> None:
    log = BadSampleLog(tmp_path / "bad.jsonl", 0.01)
    log.add(5000, [bad(row) for row in range(50)])
    with pytest.raises(DataError, match=r"51 of 5,051 .* 0\.01 .*50 truncated, 1 missing.*jsonl"):
        log.add(0, [bad(50, reason="missing")])
    # The last one is listed nevertheless.
    assert len(rows(tmp_path / "bad.jsonl")) == 51


def test_a_batch_holds_images_and_padded_captions() -> None:
    (batch,) = take(make_loader(MemorySource(make_samples(20))), 1)
    assert batch.images.shape == (8, 3, 8, 8)
    assert batch.tokens.shape[0] == 8
    assert batch.tokens.shape[1] % 8 == 0
    assert batch.tokens.dtype == torch.int64
    assert (batch.start, batch.class_targets, batch.bad) == (0, None, ())
    first = make_samples(20)[int(batch.keys[0][1:])]
    processor = tiny_processor()
    assert batch.images.dtype == torch.uint8
    assert torch.equal(batch.to("cpu").images[:1], processor.images([first.image]))
    assert processor.tokenizer.decode(batch.tokens[0].tolist()) in first.captions


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = take(make_loader(*two_sources(), augment=lively()), 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(take(make_loader(*two_sources(), augment=lively()), 3), first)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(workers: int) -> None:
    alone = take(make_loader(*two_sources(), augment=lively()), 7)
    shared = take(make_loader(*two_sources(), augment=lively(), settings={"workers": workers}), 7)
    assert same(alone, shared)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_global_batches_of_one(world_size: int) -> None:
    alone = take(make_loader(*two_sources(), augment=lively()), 5)
    ranks = [
        take(make_loader(*two_sources(), augment=lively(), rank=rank, world_size=world_size), 5)
        for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        parts = [of_rank[step] for of_rank in ranks]
        assert tuple(keys(parts)) == whole.keys
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        starts = [whole.start + rank * 8 // world_size for rank in range(world_size)]
        assert [part.start for part in parts] == starts
        # Token rows agree up to the shorter width; each rank pads to its own longest row.
        for part, rows in zip(parts, whole.tokens.split(8 // world_size), strict=True):
            width = part.tokens.shape[1]
            assert torch.equal(part.tokens, rows[:, :width])
            assert not rows[:, width:].any()


@pytest.mark.parametrize(("workers", "world_size", "batch_size"), [(0, 1, 8), (2, 2, 8), (0, 1, 4)])
def test_a_run_goes_on_where_another_stopped(
    workers: int, world_size: int, batch_size: int
) -> None:
    uninterrupted = keys(take(make_loader(*two_sources()), 10))
    first = make_loader(*two_sources())
    take(first, 3)
    assert first.state == 24
    resumed = [
        take(
            make_loader(
                *two_sources(),
                start=first.state,
                batch_size=batch_size,
                settings={"workers": workers},
                rank=rank,
                world_size=world_size,
            ),
            56 // batch_size,
        )
        for rank in range(world_size)
    ]
    later = [key for parts in zip(*resumed, strict=True) for key in keys(parts)]
    assert later == uninterrupted[24:]


def test_the_fingerprint_changes_with_everything_that_changes_the_order() -> None:
    first, second = two_sources()
    prints = [
        make_loader(first, second),
        make_loader(first, second, seed=1),
        make_loader(second, first),
        make_loader(first),
        make_loader(first, second, configs=[named("a", weight=2.0), named("b")]),
        make_loader(first, MemorySource(make_samples(15), fingerprint="c")),
        make_loader(first, MemorySource(make_samples(15), fingerprint="b", block_size=5)),
    ]
    assert len({loader.fingerprint for loader in prints}) == len(prints)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 10, "world_size": 4}, "nearest valid sizes: 8, 12"),
        ({"batch_size": 3, "world_size": 4}, "nearest valid sizes: 4$"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not among 0 to"),
        ({"start": -1}, "must both be 0 or more"),
        ({"seed": -1}, "must both be 0 or more"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_loader(MemorySource(make_samples(3)), **options)


def test_a_class_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 'a' twice"):
        LoaderConfig(class_names=("a", "b", "a"))


def test_a_killed_worker_raises_a_clear_error() -> None:
    batches = iter(make_loader(MemorySource(make_samples(8)), settings={"workers": 1}))
    next(batches)
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    with pytest.raises(DataError, match="a data worker was stopped from outside"):
        list(itertools.islice(batches, 50))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_workers_end_with_the_process_that_trains_however_it_ends(end: str, tmp_path: Path) -> None:
    program = (
        "import os\n"
        "from tiny_data import MemorySource, make_samples\n"
        "from tiny_loader import make_loader\n"
        "if __name__ == '__main__':\n"
        "    batches = iter(make_loader(MemorySource(make_samples(8)), settings={'workers': 2}))\n"
        "    next(batches)\n"
        f"    {end}\n"
    )
    script = tmp_path / "trains.py"
    script.write_text(program)
    paths = os.pathsep.join(path for path in sys.path if path)
    # Its child processes inherit its output, which closes when the last of them exits.
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr


def test_an_interrupt_from_the_keyboard_leaves_the_workers_alone() -> None:
    source = Interrupting(make_samples(16))
    batches = take(make_loader(source, settings={"workers": 1}), 4)
    assert len(batches) == 4


def test_workers_read_from_an_object_store(tmp_path: Path, serve: Serve) -> None:
    with ShardWriter(tmp_path, samples_per_shard=10) as writer:
        for sample in make_samples(30):
            writer.write(sample)
    url = f"{serve(tmp_path).url}/shard-{{000000..000002}}.tar"
    config = ShardsConfig(path=url)
    remote = open_source(config)
    alone = take(make_loader(remote, configs=[config], augment=lively()), 3)
    workers = {"workers": 1}
    shared = take(make_loader(remote, configs=[config], augment=lively(), settings=workers), 3)
    assert same(alone, shared)


def test_a_lock_that_another_thread_holds_does_not_hold_the_workers() -> None:
    enough = threading.Event()

    def draw() -> None:
        # Torch locks its generator meanwhile, and a worker first seeds its own.
        while not enough.is_set():
            torch.empty(3_000_000).normal_()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        settings = {"workers": 2, "timeout_s": 60.0}
        shared = take(make_loader(*two_sources(), settings=settings), 3)
    finally:
        enough.set()
        thread.join()
    assert same(shared, take(make_loader(*two_sources()), 3))


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after workers often; torch waits 5 s for each that does not end."""
    monkeypatch.setattr("coca.data.loading.loader.POLL_S", 0.2)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.mark.usefixtures("_impatient")
def test_workers_that_hang_raise_a_clear_error() -> None:
    settings = {"workers": 1, "timeout_s": 0.1}
    with pytest.raises(DataError, match=r"no batch came from the data workers for 0\.1 s; a disk"):
        take(make_loader(Silent(make_samples(8)), settings=settings), 1)


def test_a_source_that_cannot_be_sent_to_workers_is_reported_in_a_sentence() -> None:
    source = MemorySource(make_samples(8))
    source.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"must be picklable, or set data\.loader\.workers to 0"):
        take(make_loader(source, settings={"workers": 1}), 1)


class _HereOnly(MemorySource):
    """A class that no other process can import, since it is local to a test."""


@pytest.mark.usefixtures("_impatient")
def test_a_source_that_workers_cannot_import_raises_a_clear_error() -> None:
    with pytest.raises(DataError, match="its own sources must be in an importable module"):
        take(make_loader(_HereOnly(make_samples(8)), settings={"workers": 1}), 1)
