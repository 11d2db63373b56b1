"""Dry run of a pretraining recipe: sizes, memory and time of a step before a run starts.

Parameters, gradients and optimizer state are counted. Activations and time are measured in a few
steps on random images and full captions, of the whole batch where it fits into memory, else of few
pairs and scaled. Neither a run folder nor a tokenizer is written, and no sample is read.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.model.coca import CoCa
from coca.model.lora import add_lora_
from coca.model.pretrained import count_parameters, resolve_precision
from coca.train.backward import backward
from coca.train.blocks import recomputed_blocks
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import ParallelModel
from coca.train.objective import CoCaObjective
from coca.train.optim.optimizer import make_optimizer
from coca.train.optim.param_groups import freeze
from coca.train.trainer import training_device
from coca.workflows.training.pretrain import PretrainConfig, fitted_config
from coca.workflows.training.pretrain_data import open_sources
from coca.workflows.training.training_run import adapted, threads

FEW_PAIRS = 4
"""Pairs of a step that is scaled to the whole batch."""
SPARE = 0.8
"""Fraction of the available memory that a measured step may take."""
ADAM_BYTES = 16
"""Bytes of a parameter in fp32 with its gradient and two moments."""
TIMED_STEPS = 3
"""Measured steps; the first, which also allocates, is not timed."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would take; bytes and seconds are of one rank and one step."""

    samples: dict[str, int]
    """Samples of each source."""
    ranks: int
    steps: int
    batch_size: int
    """Pairs of a step, of all ranks."""
    epochs: dict[str, float]
    """Passes over each source in the whole run."""
    parameters: int
    trained_parameters: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """Optimizer state, and the averages of an `ema`."""
    activations_bytes: int
    """Tensors that the backward pass needs, of a micro-batch if there are any, and its images."""
    total_bytes: int
    available_bytes: int
    """Memory that this machine has free now."""
    device: str
    precision: str
    step_s: float
    measured_pairs: int
    """Pairs of this rank in a measured step; fewer than those of a step are scaled."""
    hours: float
    """Time of all steps, without reading data, evaluations and checkpoints."""
    left_out: tuple[str, ...]
    """Parts of the recipe that the figures do not contain."""


def dry_run(config: PretrainConfig) -> DryRun:
    """Estimate a run; on several ranks, all of them call this function and measure together.

    Raises:
        CocaError: The recipe or its sources are invalid, or the device has no memory for a step of
            a few pairs.
    """
    world, device = DistributedContext.current(), training_device(config.device)
    sources = open_sources(config.data.sources)
    batch_size, weights = config.data.loader.batch_size, [it.weight for it, _ in sources]
    if batch_size % world.size:
        raise ConfigError(
            f"data.loader.batch_size {batch_size} is not divisible by {world.size} ranks"
        )
    drawn = [config.train.steps * batch_size * weight / sum(weights) for weight in weights]
    source = None
    if config.init_from is not None:
        source = load(config.init_from, device="cpu", prepack=False)
    with threads(config.threads):
        measured = _measure(config, source, device, batch_size // world.size)
    return DryRun(
        samples={it.title: len(source) for it, source in sources},
        ranks=world.size,
        steps=config.train.steps,
        batch_size=batch_size,
        epochs={it.title: n / len(s) for (it, s), n in zip(sources, drawn, strict=True)},
        device=str(device),
        hours=measured["step_s"] * config.train.steps / 3600,
        left_out=tuple(_left_out(config)),
        **measured,
    )


def _left_out(config: PretrainConfig) -> Iterator[str]:
    if config.init_from is None and config.tokenizer.path is None:
        yield "a small corpus gives fewer tokens than model.text.vocab_size"
    if config.loss.auxiliary:
        yield "loss.auxiliary"
    if config.data.features is not None:
        yield "data.features: images are encoded here"
    if config.data.resolution:
        yield "data.resolution: all steps are counted at the final size"
    if config.eval is not None:
        yield "eval"


def _measure(
    config: PretrainConfig, source: Predictor | None, device: torch.device, pairs: int
) -> dict[str, Any]:
    """Measure sizes, memory and time of a step with `pairs` pairs on this rank."""
    count, available = count_parameters(config.model)["total"], _available(device)
    if count * ADAM_BYTES > available:
        raise ConfigError(
            f"weights, gradients and optimizer state of {count / 1e6:,.0f} M parameters take about "
            f"{count * ADAM_BYTES / 1e9:,.0f} GB, and {device} has {available / 1e9:,.0f} GB free; "
            "make the dry run on the machine of the run"
        )
    train = adapted(config.train, config.lora, head=config.model.head is not None)
    tokenizer = None if source is None else source.processor.tokenizer
    model = CoCa(fitted_config(config.model, source, tokenizer))
    if config.lora is not None:
        add_lora_(model, config.lora)
    freeze(model, train.optimizer.freeze)
    precision = resolve_precision(train.precision, device)
    parallel = ParallelModel(
        model,
        train.parallel,
        device=device,
        bf16=precision == "bf16",
        compiled=train.compile,
        recompute_every=train.recompute_every,
    )
    optimizer = make_optimizer(model, train.optimizer)
    # Auxiliary losses may need a tokenizer.
    objective = CoCaObjective(config.loss.replace(auxiliary=()))
    half = precision == "bf16"

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)

    def step(count: int, *, saved: "_SavedTensors | None" = None) -> float:
        """Run one training step, and return its seconds."""
        batch = _random_batch(config, model, count)
        _synchronize(device)
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        # Only the steps that are timed are worth compiling; others keep as much.
        stance = torch.compiler.set_stance("force_eager") if saved and train.compile else None
        with stance or nullcontext(), saved.recorded() if saved else nullcontext():
            backward(
                parallel,
                objective,
                batch,
                micro_batch=None if saved is not None else train.micro_batch,
                autocast=autocast,
            )
        parallel.clip_(parallel.gradient_norm(), train.grad_clip or 1.0)
        optimizer.step()
        _synchronize(device)
        return time.perf_counter() - begun

    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    micro = min(train.micro_batch or pairs, pairs)
    sizes = sorted({min(pairs, FEW_PAIRS // 2), min(pairs, FEW_PAIRS)})
    kept = []
    recomputed = recomputed_blocks(model, train.recompute_every)
    for count in sizes:
        saved = _SavedTensors({_address(it) for it in parameters})
        hooks = [block.register_forward_pre_hook(saved.add_inputs) for block in recomputed]
        step(count, saved=saved)
        for hook in hooks:
            hook.remove()
        kept.append(saved.bytes)
    images = micro * 3 * config.model.image.image_size**2 * 4
    activations = round(_extended(sizes, kept, micro)) + images
    # DDP exchanges gradients by buckets, which are a second copy of them.
    copies = 2 if parallel.world.size > 1 and train.parallel != "fsdp" else 1
    state = [it for values in optimizer.state.values() for it in values.values()]
    counted = {
        "weights_bytes": _bytes([*parameters, *model.buffers()]),
        "gradients_bytes": copies * _bytes(trained),
        "optimizer_bytes": _bytes(it for it in state if isinstance(it, Tensor))
        + (sum(4 * _local(it).numel() for it in parameters) if train.ema else 0),
        "activations_bytes": activations,
    }
    available = _available(device)
    # What the model has allocated so far is in use again.
    measured = pairs if activations < SPARE * available else min(pairs, FEW_PAIRS)
    times = [step(measured) for _ in range(TIMED_STEPS)]
    return {
        "parameters": sum(it.numel() for it in parameters),
        "trained_parameters": sum(it.numel() for it in trained),
        **counted,
        "total_bytes": sum(counted.values()),
        "available_bytes": available,
        "precision": precision,
        "step_s": min(times[1:]) * pairs / measured,
        "measured_pairs": measured,
    }


def _extended(sizes: Sequence[int], values: Sequence[int], count: int) -> float:
    """Extend a line through one or two points to another number of pairs."""
    if len(sizes) == 1:
        return values[0] * count / sizes[0]
    slope = (values[1] - values[0]) / (sizes[1] - sizes[0])
    return values[0] + slope * (count - sizes[0])


def _random_batch(config: PretrainConfig, model: CoCa, count: int) -> Batch:
    """Make a batch of noise with captions as long as the context."""
    generator = torch.Generator().manual_seed(0)
    text, head = model.config.text, config.model.head
    size = (count, 3, config.model.image.image_size, config.model.image.image_size)
    tokens = torch.randint(4, text.vocab_size, (count, text.context_length), generator=generator)
    tokens[:, 0], tokens[:, -2], tokens[:, -1] = text.bos_id, text.eos_id, text.cls_id
    classes = None if head is None else torch.ones(count, len(head.classes))
    return Batch(
        images=torch.randn(size, generator=generator),
        tokens=tokens,
        keys=tuple(map(str, range(count))),
        start=0,
        class_targets=classes,
    )


class _SavedTensors:
    """Counts the bytes that autograd keeps for the backward pass, each storage once."""

    def __init__(self, known: set[int]) -> None:
        self.bytes = 0
        self._seen = known

    @contextmanager
    def recorded(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._add, lambda tensor: tensor):
            yield

    def add_inputs(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Count the inputs of a recomputed block, which no hook of autograd sees."""
        for value in inputs:
            if isinstance(value, Tensor):
                self._add(value)

    def _add(self, tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided and (place := _address(tensor)) not in self._seen:
            self._seen.add(place)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _address(tensor: Tensor) -> int:
    return _local(tensor).untyped_storage().data_ptr()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _bytes(tensors: "Iterator[Tensor] | Sequence[Tensor]") -> int:
    return sum(_local(tensor).numel() * tensor.element_size() for tensor in tensors)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _available(device: torch.device) -> int:
    """Return the free memory of a device, bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
