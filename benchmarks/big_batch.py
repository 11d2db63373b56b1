"""Time and memory of one large-batch step with gradient caching against small-batch steps.

    python benchmarks/big_batch.py
    python benchmarks/big_batch.py --pairs 65536 --model narrow --rounds 1

`cached` makes one update from all pairs: it first embeds them micro-batch by micro-batch, then runs
each micro-batch again with its graph. `small` makes one update per micro-batch, so its contrastive
loss compares fewer pairs. `whole` runs all pairs at once, as far as memory allows. The pixels are
noise in fp32, in memory from the start in all three; the peak memory includes them.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from options import run
from side_by_side import Rounds, emit, figure, in_turn, peak_bytes, ratio, table, write_report

from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, PoolerConfig, TextDecoderConfig
from coca.model.encoders.vit import ViTConfig
from coca.train.backward import backward
from coca.train.distributed.parallel import ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer

NAMES = {
    "cached": "one step, cached",
    "small": "small steps",
    "whole": "one step, all at once",
}


def narrow() -> CoCaConfig:
    """Build a small configuration, for machines where 65,536 pairs of a real model take an hour."""
    image = ViTConfig(image_size=64, patch_size=16, width=128, layers=4, heads=2, mlp_width=512)
    text = TextDecoderConfig(
        vocab_size=8_000,
        width=128,
        heads=2,
        mlp_width=512,
        unimodal_layers=2,
        multimodal_layers=2,
        tie_embeddings=True,
    )
    pooler = PoolerConfig(captioning_queries=image.tokens, heads=2)
    return CoCaConfig(image=image, text=text, pooler=pooler, embed_dim=128)


MODELS = {"narrow": narrow(), **CoCaConfig.presets()}


def make_batch(config: CoCaConfig, pairs: int) -> Batch:
    """Generate noise with random captions of 12 tokens on average: log-normal, 5 to 40."""
    generator = torch.Generator().manual_seed(0)
    text, side = config.text, config.image.image_size
    lengths = torch.exp(2.37 + 0.45 * torch.randn(pairs, generator=generator)).round()
    lengths = lengths.clamp(5, 40).long()
    tokens = torch.randint(4, text.vocab_size, (pairs, int(lengths.max())), generator=generator)
    positions = torch.arange(tokens.shape[1])
    tokens[positions.expand_as(tokens) >= lengths[:, None]] = text.pad_id
    tokens[:, 0] = text.bos_id
    tokens.scatter_(1, lengths[:, None] - 2, text.eos_id)
    tokens.scatter_(1, lengths[:, None] - 1, text.cls_id)
    images = torch.randn(pairs, 3, side, side, generator=generator)
    return Batch(images, tokens, tuple(map(str, range(pairs))), start=0)


class Steps:
    """Timed updates of one model."""

    def __init__(self, config: CoCaConfig, *, device: torch.device, bf16: bool) -> None:
        torch.manual_seed(0)
        self.device, self.bf16 = device, bf16
        self.model = ParallelModel(CoCa(config), "none", device=device)
        self.objective = CoCaObjective(LossConfig())
        self.optimizer = make_optimizer(self.model.model, OptimizerConfig(lr=1e-4))

    def run(self, batches: Sequence[Batch], micro_batch: int | None) -> tuple[float, float]:
        """Make one update per batch; return the seconds and the last loss."""
        start, loss = self._now(), 0.0
        for batch in batches:
            self.optimizer.zero_grad(set_to_none=True)
            losses = backward(
                self.model,
                self.objective,
                batch.to(self.device),
                micro_batch=micro_batch,
                autocast=lambda: torch.autocast(
                    self.device.type, dtype=torch.bfloat16, enabled=self.bf16
                ),
            )
            self.optimizer.step()
            loss = losses.total.item()
        return self._now() - start, loss

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


QUICK = {"model": "narrow", "pairs": 256, "micro_batch": 64, "rounds": 2}
UNITS = {"seconds": "s", "pairs_per_s": "pairs/s", "bytes": "bytes"}


def contestant(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    config, part = MODELS[arguments.model], arguments.micro_batch
    steps = Steps(config, device=device, bf16=arguments.precision == "bf16")
    batch = make_batch(config, arguments.pairs)
    steps.run(batch.split(part)[:2], None)
    batches = batch.split(part) if arguments.contestant == "small" else [batch]
    seconds, loss = steps.run(batches, part if arguments.contestant == "cached" else None)
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    emit(
        {
            "seconds": seconds,
            "pairs_per_s": arguments.pairs / seconds,
            "bytes": on_device or peak_bytes(),
            "pixels": batch.images.nbytes,
            "loss": loss,
        }
    )


def referee(arguments: argparse.Namespace) -> Rounds:
    names = ("pairs", "micro_batch", "model", "precision", "device")
    shared = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    rounds = in_turn(
        {name: [f"--contestant={name}", *shared] for name in arguments.only},
        rounds=arguments.rounds,
    )
    write_report(
        arguments,
        rounds,
        f"big_batch_{arguments.model}_{arguments.precision}_{arguments.pairs}",
        f"One step of {arguments.pairs:,} pairs, {arguments.model}, {arguments.precision}",
        f"Parts of {arguments.micro_batch} pairs, on {arguments.device}.",
        results(rounds),
        packages=("torch",),
    )
    return rounds


def results(rounds: Rounds) -> str:
    rows = []
    for name, own in rounds.items():
        row = [NAMES[name], figure(own, "seconds").shown(1), figure(own, "pairs_per_s").shown(1)]
        row.append(ratio(own, rounds["small"], "seconds").shown() if "small" in rounds else "")
        row.append(f"{figure(own, 'bytes').median / 2**30:.2f}")
        row.append(f"{figure(own, 'pixels').median / 2**30:.2f}")
        row.append(f"{own[0]['loss']:.5f}")
        rows.append(row)
    columns = ["", "seconds", "pairs/s", "seconds, ratio", "peak GiB", "of it pixels", "last loss"]
    return table(columns, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4096, help="of a step (default 4096)")
    parser.add_argument("--micro-batch", type=int, default=128, help="pairs of a part")
    parser.add_argument("--model", choices=list(MODELS), default="coca_tiny")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu", help="a torch device (default cpu)")
    parser.add_argument("--only", nargs="+", choices=list(NAMES), default=["cached", "small"])
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
