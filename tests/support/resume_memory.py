"""Memory and bytes that a rank needs to resume a run, measured by the operating system."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.deferred_weights import WeightsRecorder
from coca.train.checkpoints import model_tensors, optimizer_state
from coca.train.optim.ema import EmaConfig
from coca.train.optim.schedule import ScheduleConfig
from coca.train.trainer import Trainer
from tiny import tiny_config
from tiny_shared_run import shared_trainer

Measured = dict[str, Any]


def wide_config() -> CoCaConfig:
    """A model of 21 million parameters in many tensors, so that no tensor is large."""
    plain = tiny_config()
    size = {"width": 256, "heads": 4, "mlp_width": 1024}
    image = plain.image.replace(layers=12, **size)
    text = plain.text.replace(unimodal_layers=6, multimodal_layers=6, vocab_size=2000, **size)
    return plain.replace(image=image, text=text, embed_dim=256)


def trainer(folder: Path, steps: int, config: CoCaConfig) -> Trainer[CoCa]:
    """A run whose ranks shard the model before it has weights."""
    with WeightsRecorder() as recorder:
        model = CoCa(config)
    return shared_trainer(
        folder,
        "fsdp",
        model=model,
        initial=recorder.weights_of(model),
        steps=steps,
        ema=EmaConfig(),
        schedule=ScheduleConfig(warmup=0),
    )


def first_step(folder: Path) -> Measured:
    """Train one step, which saves a checkpoint."""
    trainer(folder, 1, wide_config()).fit()
    return {}


def resume(folder: Path) -> Measured:
    """Resume the run of `first_step` as a rank, and measure it."""
    # Libraries and process groups take memory, too, for any model.
    trainer(folder.with_name("tiny"), 1, tiny_config()).fit()
    before, read = memory("VmRSS"), _bytes_read()
    _reset_peak()
    resumed = trainer(folder, 2, wide_config())
    resumed.resume()
    return {
        "grown": memory("VmHWM") - before,
        "read": _bytes_read() - read,
        "shards": sum(_bytes(tensor) for tensor in tensors(resumed)),
        "step": resumed.step,
    }


def tensors(trainer: Trainer[CoCa]) -> list[Tensor]:
    """All tensors of a run that a checkpoint has."""
    assert trainer.ema is not None
    moments, _ = optimizer_state(trainer.model, trainer.optimizer)
    groups = (model_tensors(trainer.model), moments, trainer.ema.tensors())
    return [tensor for group in groups for tensor in group.values()]


def memory(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _bytes_read() -> int:
    line, *_ = Path("/proc/self/io").read_text().splitlines()
    return int(line.removeprefix("rchar: "))


def _bytes(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.itemsize
