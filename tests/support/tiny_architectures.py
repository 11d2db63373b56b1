"""OpenCLIP's CoCa in a training step, on one rank or several."""

import torch
from torch.distributed.fsdp import FSDPModule

from coca.data.batch import Batch
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig, OpenCLIPTextConfig
from coca.train.backward import backward
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import Kind, ParallelModel
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from tiny import seed_weights, sharpened, tiny_image
from tiny_ranks import Results
from tiny_shared_run import whole

CPU = torch.device("cpu")
PAIRS = 4
KINDS: tuple[Kind, ...] = ("ddp", "fsdp")
BOS, EOS = 58, 59


def openclip() -> OpenCLIP:
    text = OpenCLIPTextConfig(
        vocab_size=60,
        context_length=12,
        width=32,
        heads=2,
        mlp_width=64,
        unimodal_layers=2,
        multimodal_layers=2,
        bos_id=BOS,
        eos_id=EOS,
    )
    config = OpenCLIPConfig(
        image=tiny_image(), text=text, pooler_queries=7, pooler_heads=2, embed_dim=32
    )
    seed_weights()
    return sharpened(OpenCLIP(config))


def openclip_batch() -> Batch:
    """Captions of 1, 2, 3 and 4 words."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.zeros(PAIRS, 12, dtype=torch.int64)
    for words, row in enumerate(tokens, start=1):
        row[0], row[words + 1] = BOS, EOS
        row[1 : words + 1] = torch.randint(1, BOS, (words,), generator=generator)
    return Batch(
        images=torch.randn(PAIRS, 3, 16, 16, generator=generator),
        tokens=tokens,
        keys=tuple(map(str, range(PAIRS))),
        start=0,
    )


def step(parallel: ParallelModel[OpenCLIP]) -> Results:
    """Figures and whole gradients of one step with this rank's part of the pairs."""
    world = DistributedContext.current()
    batch = openclip_batch().split(PAIRS // world.size)[world.rank]
    losses = backward(parallel, CoCaObjective(LossConfig()), batch)
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
    results = step(parallel)
    apart = [isinstance(layer, FSDPModule) for layer in parallel.model.multimodal_decoder.layers]
    return {**results, "apart": torch.tensor(apart)}


def sharded_steps_on_cuda() -> Results:
    """The steps with sharded weights, on the one accelerator of this process."""
    torch.backends.cudnn.allow_tf32 = False
    return {name: value.cpu() for name, value in steps("fsdp", torch.device("cuda")).items()}


def steps_of_kinds() -> dict[str, Results]:
    """A step of each kind of parallelism."""
    return {kind: steps(kind) for kind in KINDS}
