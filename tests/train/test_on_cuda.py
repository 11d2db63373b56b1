"""Steps and runs on CUDA equal those on the CPU; without CUDA, on a simulated device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.pretrained import build
from coca.processing.image import ImageConfig
from coca.train.backward import backward
from coca.train.distributed.parallel import ParallelModel
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from coca.train.optim.ema import EmaConfig
from fake_cuda import DEVICE, DEVICE_KINDS, on_cpu, on_device, pretended_cuda, waits
from tiny import sharpened, tiny_config
from tiny_architectures import openclip, openclip_batch
from tiny_ranks import ragged_batch
from tiny_run import SignalAfter, TinyStream, tiny_trainer

CPU = torch.device("cpu")


def coca() -> CoCa:
    torch.manual_seed(0)
    head = HeadConfig(classes=("a", "b", "c"), heads=2)
    return sharpened(build(tiny_config(head=head)))


def of_bytes() -> Batch:
    """Images as returned by the loader."""
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    batch = ragged_batch(6)
    return Batch(
        images=pixels,
        tokens=batch.tokens,
        keys=batch.keys,
        start=0,
        class_targets=batch.class_targets,
        image_config=ImageConfig(image_size=16),
    )


ALL_LOSSES = CoCaObjective(LossConfig(classification_weight=0.5))
STEPS: dict[str, tuple[Callable[[], Any], Any, Callable[[], Batch], int | None]] = {
    "coca": (coca, ALL_LOSSES, of_bytes, None),
    "coca in parts": (coca, ALL_LOSSES, of_bytes, 4),
    "openclip": (openclip, CoCaObjective(LossConfig()), openclip_batch, None),
}


def step(name: str, device: torch.device) -> dict[str, Tensor]:
    """Compute the losses and gradients of one step."""
    make, objective, pairs, micro_batch = STEPS[name]
    torch.manual_seed(0)
    batch = pairs()
    parallel = ParallelModel(make(), "none", device=device)
    losses = backward(parallel, objective, batch, micro_batch=micro_batch)
    return {**losses.parts, **dict(parallel.gradients())}


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Largest difference of a tensor, relative to the norm of all together."""
    assert found.keys() == wanted.keys()
    length = torch.cat([tensor.flatten() for tensor in wanted.values()]).norm()
    return max(float((found[name] - wanted[name]).norm() / length) for name in wanted)


@pytest.mark.parametrize("kind", DEVICE_KINDS)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_gives_the_losses_and_gradients_of_the_cpu(name: str, kind: str) -> None:
    wanted = step(name, CPU)
    with on_device(kind) as (device, tolerance):
        found = step(name, device)
        assert {tensor.device for tensor in found.values()} == {device}
        found = on_cpu(found)
    assert difference(found, wanted) < tolerance


@pytest.mark.parametrize("kind", DEVICE_KINDS)
@pytest.mark.parametrize("name", STEPS)
def test_no_forward_or_backward_pass_waits_for_the_device(name: str, kind: str) -> None:
    make, objective, pairs, micro_batch = STEPS[name]
    batch = pairs()
    with on_device(kind) as (device, _):
        parallel = ParallelModel(make(), "none", device=device)
        with waits(device) as found:
            backward(parallel, objective, batch, micro_batch=micro_batch)
        assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_a_run_that_is_stopped_ends_with_the_weights_of_the_cpu(kind: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "save_every": 3, "ema": EmaConfig(decay=0.9)}
    alone = tiny_trainer(tmp_path / "cpu", **settings)
    begun = {name: weight.clone() for name, weight in alone.weights().items()}
    alone.fit()
    with on_device(kind) as (device, tolerance):
        tiny_trainer(tmp_path / "run", device=device, objective=SignalAfter(4), **settings).fit()
        trainer = tiny_trainer(tmp_path / "run", device=device, **settings)
        assert trainer.fit().step == 6
        found = on_cpu(trainer.weights())
    # Adam divides each gradient by its own size, so that rounding grows with every step. It stays
    # far below a step, of which six moved the weights.
    limit = max(100 * tolerance, difference(begun, alone.weights()) / 100)
    assert difference(found, alone.weights()) < limit


def test_the_simulated_device_rejects_what_cuda_would() -> None:
    with pretended_cuda():
        model, batch = coca().to(DEVICE), next(iter(TinyStream())).to(DEVICE)
        with pytest.raises(RuntimeError, match="given tensors of different devices"):
            model.encode_image(torch.zeros(1, 3, 16, 16))
        with pytest.raises(RuntimeError, match="reads a tensor of the CPU by positions"):
            torch.zeros(3)[torch.zeros(1, dtype=torch.int64, device=DEVICE)]
        with waits(DEVICE) as found:
            (batch.tokens.to(DEVICE) > 3).nonzero().tolist()
        assert found == ["_to_copy", "nonzero", "tolist"]
        assert model.encode_image(batch.images).device == DEVICE
