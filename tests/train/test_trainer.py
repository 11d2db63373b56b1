import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from coca.core.errors import CocaError, ConfigError, DataError, StorageError
from coca.core.files import atomic
from coca.data.batch import Batch
from coca.model import pretrained
from coca.model.checkpoint import CHECKPOINT_FOLDER
from coca.model.coca import CoCa
from coca.train.losses import LossConfig
from coca.train.optim.ema import EmaConfig
from coca.train.optim.schedule import ScheduleConfig
from coca.train.tracker import JsonLinesTracker
from coca.train.trainer import (
    CUBLAS_WORKSPACE,
    TrainConfig,
    Trainer,
    deterministic_algorithms,
    stop_on_signal,
    training_device,
)
from pretended_device import PretendedDevice
from tiny_run import (
    Bars,
    SignalAfter,
    TinyStream,
    read_metrics,
    recording,
    rows,
    same,
    saved_steps,
    tiny_trainer,
    weights,
)


def test_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signal():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def projection(model: CoCa) -> nn.Parameter:
    return dict(model.named_parameters())["image_projection.weight"]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    class Same(TinyStream):
        def _batch(self, number: int, start: int) -> Batch:
            return super()._batch(0, start)

    trainer = tiny_trainer(tmp_path, loader=Same(), steps=30)
    result = trainer.fit()
    losses = [row["loss"] for row in rows(tmp_path)]
    assert result.step == 30
    assert not result.interrupted
    assert losses[-1] < 0.5 * losses[0]
    assert result.metrics["loss"] == losses[-1]


def test_a_run_logs_its_figures_and_saves_every_few_steps_and_at_the_end(
    uninterrupted: Trainer[CoCa], tmp_path: Path
) -> None:
    row, *_ = logged = read_metrics(tmp_path / "whole")
    assert set(row) == {
        "step", "loss", "contrastive", "captioning", "temperature", "image_to_text@1",
        "grad_norm", "lr", "bad_steps", "pairs_per_s",
    }  # fmt: skip
    assert row["loss"] == pytest.approx(row["contrastive"] + 2 * row["captioning"])
    # Warm-up of 3 steps to 1e-2, then linear over 9; rows have every second step, counted from 1.
    expected = [1e-2 * factor for factor in (2 / 4, 1, 7 / 9, 5 / 9, 3 / 9, 1 / 9)]
    assert [row["lr"] for row in logged] == pytest.approx(expected)
    assert saved_steps(tmp_path / "whole") == [10, 12]


def test_the_gradient_is_clipped_and_its_norm_before_is_logged(tmp_path: Path) -> None:
    clipped = tiny_trainer(tmp_path, steps=1, grad_clip=1e-3, log_every=1)
    norm = clipped.fit().metrics["grad_norm"]
    gradients = [p.grad for p in clipped.model.parameters() if p.grad is not None]
    assert norm > 1e-3
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(1e-3, rel=1e-3)
    free = tiny_trainer(tmp_path / "free", steps=1, grad_clip=None, log_every=1)
    assert free.fit().metrics["grad_norm"] == norm
    gradients = [p.grad for p in free.model.parameters() if p.grad is not None]
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(norm)


def test_the_temperature_is_held_in_its_range_after_each_update(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, steps=1)
    with torch.no_grad():
        trainer.model.log_scale.fill_(5.0)
    trainer.fit()
    # The lowest temperature is 0.01; one update moves the logarithm by about 1e-2 only.
    assert float(trainer.model.logit_scale.detach()) == pytest.approx(100.0)


def test_half_precision_trains_and_keeps_its_weights_whole(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, precision="bf16", steps=1)
    whole = tiny_trainer(tmp_path / "fp32", steps=1)
    # Of the first step, before which the weights are equal.
    loss, expected = trainer.fit().metrics["loss"], whole.fit().metrics["loss"]
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert loss != expected
    # bf16 has 8 bits: products differ by up to 1/256 each, the loss by about a percent.
    assert loss == pytest.approx(expected, rel=0.02)


def test_the_bar_counts_every_step_and_rows_come_at_the_end_too(tmp_path: Path) -> None:
    bars: Bars = {}
    with recording(bars):
        tiny_trainer(tmp_path, steps=3, save_every=2).fit()
    assert [row["step"] for row in rows(tmp_path)] == [2, 3]
    (bar,) = bars.values()
    assert list(bars) == [("training", 3)]
    assert bar.count == 3
    # The first row is that of step 2.
    assert [set(figures) for figures in bar.figures] == [set(), *2 * [{"loss", "pairs_per_s"}]]


def test_fit_works_outside_the_main_thread(tmp_path: Path) -> None:
    results = []
    trainer = tiny_trainer(tmp_path, steps=2)
    thread = threading.Thread(target=lambda: results.append(trainer.fit()))
    thread.start()
    thread.join()
    assert results[0].step == 2


def test_a_poisoned_batch_is_skipped_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = tiny_trainer(tmp_path, loader=TinyStream(poisoned=frozenset({3, 8})))
    result = trainer.fit()
    assert result.step == 12
    assert result.metrics["bad_steps"] == 2.0
    assert all(bool(tensor.isfinite().all()) for tensor in weights(trainer).values())
    assert "step 4 skipped: contrastive is not finite (samples 12 to 15)" in caplog.text
    assert "step 9 skipped" in caplog.text
    assert all(row["loss"] is not None for row in rows(tmp_path))


def test_a_skipped_step_changes_no_weight_and_no_moment(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path, loader=TinyStream(poisoned=frozenset({2})), steps=3, save_every=1
    )
    trainer.fit()
    folder = tmp_path / CHECKPOINT_FOLDER
    before, after = (
        (folder / f"step_{step:08d}" / name).read_bytes()
        for step, name in ((2, "model.safetensors"), (3, "model.safetensors"))
    )
    assert before == after


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_the_host_waits_for_the_device_at_rows_only(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"steps": 8, "log_every": 4, "save_every": 100}
    trainer = tiny_trainer(tmp_path, ema=EmaConfig(), optimizer=optimizer, **settings)
    waits = []

    class Watched(TinyStream):
        def __iter__(self) -> Iterator[Batch]:
            # The checkpoint after the last step is outside the block.
            with PretendedDevice(trainer, monkeypatch) as device:
                for batch in super().__iter__():
                    waits.append(device.waits.total())
                    yield batch

    trainer.loader = Watched()
    trainer.fit()
    # Adafactor cannot skip a step on the device, and reads one number for each.
    each = int(optimizer == "adafactor")
    assert waits == [each * step + step // 4 for step in range(8)]


def test_a_gradient_that_is_not_finite_is_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = tiny_trainer(tmp_path, steps=4)
    calls = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.full_like(gradient, torch.inf) if len(calls) == 2 else gradient

    projection(trainer.model).register_hook(spoil)
    result = trainer.fit()
    assert result.metrics["bad_steps"] == 1.0
    assert "step 2 skipped: the gradient of image_projection.weight is not finite" in caplog.text
    assert all(bool(tensor.isfinite().all()) for tensor in weights(trainer).values())


def test_too_many_bad_steps_in_a_row_stop_the_run_with_its_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    poisoned = frozenset(range(7, 100))
    trainer = tiny_trainer(tmp_path, loader=TinyStream(poisoned=poisoned), max_bad_steps=3)
    with pytest.raises(CocaError, match=r"3 steps in a row .* step 10 by .*step_00000005"):
        trainer.fit()
    assert saved_steps(tmp_path) == [5]
    with pytest.raises(CocaError, match="3 steps in a row"):
        tiny_trainer(tmp_path, loader=TinyStream(poisoned=poisoned), max_bad_steps=3).fit()


def test_bad_steps_in_a_row_push_no_good_checkpoint_out(tmp_path: Path) -> None:
    poisoned = frozenset(range(7, 100))
    trainer = tiny_trainer(
        tmp_path, loader=TinyStream(poisoned=poisoned), max_bad_steps=4, save_every=1
    )
    with pytest.raises(CocaError, match=r"step 11 by .*step_00000007"):
        trainer.fit()
    assert saved_steps(tmp_path) == [6, 7]


def test_a_save_that_bad_steps_put_off_comes_with_the_next_good_one(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, loader=TinyStream(poisoned=frozenset({4, 5})), steps=9).fit()
    assert saved_steps(tmp_path) == [7, 9]


def test_bad_steps_are_counted_across_a_restart(tmp_path: Path) -> None:
    poisoned = frozenset(range(3, 100))
    stopped = tiny_trainer(
        tmp_path,
        loader=TinyStream(poisoned=poisoned),
        max_bad_steps=5,
        objective=SignalAfter(6),
    )
    assert stopped.fit().interrupted
    with pytest.raises(CocaError, match=r"5 steps in a row .* last step 8"):
        tiny_trainer(tmp_path, loader=TinyStream(poisoned=poisoned), max_bad_steps=5).fit()


def test_data_that_never_come_leave_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        tiny_trainer(tmp_path, loader=TinyStream(ends_at=0)).fit()
    assert not (tmp_path / CHECKPOINT_FOLDER).exists()


def test_a_full_disk_keeps_the_run_in_memory_and_the_older_checkpoint(
    uninterrupted: Trainer[CoCa], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    trainer = tiny_trainer(run)

    def full(folder: Path) -> None:
        if "00000010" in folder.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_sync_tree", full)
    with pytest.raises(StorageError, match=r"No space left on device; the last good .*00000005"):
        trainer.fit()
    assert saved_steps(run) == [5]
    assert trainer.step == 10
    monkeypatch.undo()
    assert trainer.fit().step == 12
    assert saved_steps(run) == [10, 12]
    assert same(weights(trainer), weights(uninterrupted))
    assert rows(run) == rows(tmp_path / "whole")


def test_a_row_that_cannot_be_written_is_written_when_it_can(
    uninterrupted: Trainer[CoCa], tmp_path: Path
) -> None:
    class Full:
        """Fails on the row of step 6, once."""

        room = False

        def rewind(self, step: int) -> None: ...

        def log(self, step: int, metrics: object) -> None:
            if step == 6 and not self.room:
                raise StorageError("metrics.jsonl cannot be written: No space left on device")

        def close(self) -> None: ...

    run, full = tmp_path / "run", Full()
    trainer = tiny_trainer(run, trackers=[JsonLinesTracker(run), full])
    with pytest.raises(StorageError, match="No space"):
        trainer.fit()
    full.room = True
    trainer.fit()
    assert rows(run) == rows(tmp_path / "whole")
    assert same(weights(trainer), weights(uninterrupted))


def test_training_draws_nothing_from_the_global_generators(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    before = torch.get_rng_state()
    trainer.fit()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_deterministic_run_allows_deterministic_algorithms_only(
    uninterrupted: Trainer[CoCa], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    allowed = []

    class Watching(TinyStream):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                allowed.append(torch.are_deterministic_algorithms_enabled())
                yield batch

    trainer = tiny_trainer(tmp_path, loader=Watching(), deterministic=True)
    trainer.fit()
    assert set(allowed) == {True}
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == CUBLAS_WORKSPACE
    assert not torch.are_deterministic_algorithms_enabled()
    assert same(weights(trainer), weights(uninterrupted))


def test_a_tower_without_a_loss_is_left_as_it_is(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, losses=LossConfig(captioning_weight=0.0), steps=3)
    before = weights(trainer)
    trainer.fit()
    after = weights(trainer)
    untouched = [name for name in before if name.startswith("multimodal_decoder")]
    assert untouched
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert not torch.equal(before["image_projection.weight"], after["image_projection.weight"])


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bf16"), (0.3, "fp32")])
def test_auto_precision_trains_as_the_faster_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, chosen: Literal["fp32", "bf16"]
) -> None:
    expected = tiny_trainer(tmp_path / "set", precision=chosen, steps=2).fit()
    monkeypatch.setattr(pretrained, "bf16_gain", lambda _: gain)
    trainer = tiny_trainer(tmp_path / "auto", precision="auto", steps=2)
    assert trainer.precision == chosen
    assert trainer.fit().metrics["loss"] == expected.metrics["loss"]


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.warmup 5 must be below"):
        TrainConfig(steps=5, schedule=ScheduleConfig(warmup=5))


@pytest.mark.parametrize(("there", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(
    there: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert training_device("auto") == torch.device(found)
    assert training_device("cpu") == torch.device("cpu")
    assert training_device("cuda:1") == torch.device("cuda", 1)


def test_an_operation_without_a_deterministic_algorithm_raises() -> None:
    # torch has none for this operation on a CPU either.
    pooled, positions = torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    message = r"max_unpooling2d\S* has no deterministic algorithm"
    with pytest.raises(ConfigError, match=message), deterministic_algorithms(True):
        torch.nn.functional.max_unpool2d(pooled, positions, [2])
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^mine$"), deterministic_algorithms(True):
        raise RuntimeError("mine")
