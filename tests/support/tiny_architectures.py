"""OpenCLIP's CoCa in a training step, on one rank or several."""

import dataclasses
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from coca.data.batch import Batch
from coca.model.encoders.vit import ViTConfig
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig, OpenCLIPTextConfig
from coca.train.backward import backward
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import Kind, ParallelModel
from coca.train.objective import CoCaObjective, LossConfig, Objective
from tiny import seed_weights, sharpened
from tiny_ranks import Results
from tiny_shared_run import whole

ModelT = TypeVar("ModelT", bound=nn.Module)
CPU = torch.device("cpu")
PAIRS = 4
KINDS: tuple[Kind, ...] = ("ddp", "fsdp")
BOS, EOS = 58, 59


def openclip_config(**changes: Any) -> OpenCLIPConfig:
    config = OpenCLIPConfig(
        image=ViTConfig(image_size=16, patch_size=4, width=32, layers=2, heads=2, mlp_width=64),
        text=OpenCLIPTextConfig(
            vocab_size=60,
            context_length=12,
            width=32,
            heads=2,
            mlp_width=64,
            unimodal_layers=2,
            multimodal_layers=2,
            bos_id=BOS,
            eos_id=EOS,
        ),
        pooler_queries=7,
        pooler_heads=2,
        embed_dim=32,
    )
    return dataclasses.replace(config, **changes)


def openclip(*, image_size: int = 16) -> OpenCLIP:
    image = dataclasses.replace(openclip_config().image, image_size=image_size)
    seed_weights()
    return sharpened(OpenCLIP(openclip_config(image=image)))


def openclip_batch(*, image_size: int = 16) -> Batch:
    """Captions of 1, 2, 3 and 4 words."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.zeros(PAIRS, 12, dtype=torch.int64)
    for words, row in enumerate(tokens, start=1):
        row[0], row[words + 1] = BOS, EOS
        row[1 : words + 1] = torch.randint(1, BOS, (words,), generator=generator)
    return Batch(
        images=torch.randn(PAIRS, 3, image_size, image_size, generator=generator),
        tokens=tokens,
        keys=tuple(map(str, range(PAIRS))),
        start=0,
    )


def step(parallel: ParallelModel[ModelT], objective: Objective[ModelT]) -> Results:
    """Figures and whole gradients of one step with this rank's part of the pairs."""
    world = DistributedContext.current()
    batch = openclip_batch().split(PAIRS // world.size)[world.rank]
    losses = backward(parallel, objective, batch)
    return {
        **{f"figure/{name}": value for name, value in losses.parts.items()},
        **{
            f"gradient/{name}": whole(parameter.grad)
            for name, parameter in parallel.model.named_parameters()
            if parameter.grad is not None
        },
    }


def steps(kind: Kind, device: torch.device = CPU) -> Results:
    """A step of OpenCLIP's model."""
    parallel = ParallelModel(openclip(), kind, device=device)
    results = step(parallel, CoCaObjective(LossConfig()))
    apart = [isinstance(layer, FSDPModule) for layer in parallel.model.multimodal_decoder.layers]
    return {**results, "apart": torch.tensor(apart)}


def sharded_steps_on_cuda() -> Results:
    """The steps with sharded weights, on the one accelerator of this process."""
    torch.backends.cudnn.allow_tf32 = False
    return {name: value.cpu() for name, value in steps("fsdp", torch.device("cuda")).items()}


def steps_of_kinds() -> dict[str, Results]:
    """A step of each kind of parallelism."""
    return {kind: steps(kind) for kind in KINDS}
