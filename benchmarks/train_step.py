"""Training step of OpenCLIP's coca_ViT-B-32 against the same model here: pairs/s, memory, loss.

    python benchmarks/train_step.py --precision fp32
    python benchmarks/train_step.py --precision bf16 --rounds 5

Both models have the same weights, images and captions. OpenCLIP steps as in its own training:
captions padded to 76 tokens, autocast for bf16, torch's AdamW. Here `Processor` pads the captions
and `make_optimizer` makes the optimizer. A third row is the paper's architecture at the same sizes,
with weights of its own.
"""

import argparse
import gc
import time
from collections.abc import Callable

import torch
from options import run
from peer import BOS, CONTEXT, EOS, VOCAB_SIZE, captions, noise_images, peer_model
from side_by_side import Rounds, emit, figure, in_turn, peak_bytes, ratio, table, write_report
from torch import Tensor

from coca.core.malloc import keep_freed_memory
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, PoolerConfig, TextDecoderConfig
from coca.model.encoders.vit import ViTConfig
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig
from coca.model.openclip.openclip_weights import convert_state_dict
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer

OPTIMIZER = OptimizerConfig(lr=1e-4, weight_decay=0.01)
NAMES = {
    "peer": "open_clip_torch coca_ViT-B-32",
    "same": "the same model here",
    "paper": "the paper's model here, same sizes",
}

Step = Callable[[], float]
"""Makes one update and returns the loss before it."""


def peer_step(batch: int, bf16: bool) -> Step:
    from open_clip.loss import CoCaLoss
    from open_clip_train.precision import get_autocast

    model, loss = peer_model(), CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [
        {"params": others, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": OPTIMIZER.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps)
    images, tokens = noise_images(batch), captions(batch)
    autocast = get_autocast("amp_bf16" if bf16 else "fp32", device_type="cpu")

    def step() -> float:
        optimizer.zero_grad()
        with autocast():
            total = sum(loss(**model(images, tokens), output_dict=True).values())
        total.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        return total.item()

    return step


def our_step(model: CoCa, tokens: Tensor, bf16: bool) -> Step:
    keep_freed_memory()
    objective = CoCaObjective(LossConfig(contrastive_reduction="mean"))
    optimizer = make_optimizer(model, OPTIMIZER)
    batch = Batch(noise_images(len(tokens)), tokens, tuple(map(str, range(len(tokens)))), start=0)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            losses = objective(model, batch)
        losses.total.backward()
        optimizer.step()
        objective.constrain_(model)
        return losses.total.item()

    return step


def same_step(batch: int, bf16: bool) -> Step:
    config = OpenCLIPConfig()
    model = OpenCLIP(config)
    model.load_state_dict(convert_state_dict(peer_model().state_dict(), config))
    gc.collect()
    tokens = captions(batch)
    return our_step(model, tokens[:, : int((tokens != 0).sum(dim=1).max())], bf16)


def paper_step(batch: int, bf16: bool) -> Step:
    torch.manual_seed(0)
    image = ViTConfig(image_size=224, patch_size=32)
    text = TextDecoderConfig(
        vocab_size=VOCAB_SIZE, context_length=CONTEXT + 1, width=512, heads=8, mlp_width=2048
    )
    config = CoCaConfig(image=image, text=text, pooler=PoolerConfig(heads=8), embed_dim=512)
    tokens = captions(batch)
    lengths = (tokens != 0).sum(dim=1)
    tokens = torch.where(
        tokens == BOS, text.bos_id, torch.where(tokens == EOS, text.eos_id, tokens)
    )
    tokens.scatter_(1, lengths[:, None], text.cls_id)
    return our_step(CoCa(config), tokens[:, : int(lengths.max()) + 1], bf16)


STEPS: dict[str, Callable[[int, bool], Step]] = {
    "peer": peer_step,
    "same": same_step,
    "paper": paper_step,
}


QUICK = {"batch": 4, "steps": 1, "rounds": 1}
UNITS = {"pairs_per_s": "pairs/s", "peak_bytes": "bytes"}


def contestant(arguments: argparse.Namespace) -> None:
    bf16, batch = arguments.precision == "bf16", arguments.batch
    step = STEPS[arguments.contestant](batch, bf16)
    losses = [step()]
    times = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        losses.append(step())
        times.append(time.perf_counter() - start)
    emit(
        {
            "pairs_per_s": batch / min(times),
            "peak_bytes": peak_bytes(),
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }
    )


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("precision", "batch", "steps")]
    rounds = in_turn(
        {name: [f"--contestant={name}", *shared] for name in arguments.only},
        rounds=arguments.rounds,
    )
    write_report(
        arguments,
        rounds,
        f"train_step_{arguments.precision}",
        f"Training step, {arguments.precision}, batch {arguments.batch}",
        results(rounds),
        packages=("torch", "open_clip_torch"),
    )
    return rounds


def results(rounds: Rounds) -> str:
    rows = []
    for name, own in rounds.items():
        row = [NAMES[name], figure(own, "pairs_per_s").shown()]
        row.append(f"{figure(own, 'peak_bytes').median / 2**30:.2f}")
        if "peer" in rounds:
            row.append(ratio(own, rounds["peer"], "pairs_per_s").shown())
            row.append(ratio(own, rounds["peer"], "peak_bytes").shown())
            row.append(f"{abs(own[0]['first_loss'] - rounds['peer'][0]['first_loss']):.1e}")
            row.append(f"{abs(own[0]['last_loss'] - rounds['peer'][0]['last_loss']):.1e}")
        rows.append(row)
    columns = ["", "pairs/s", "peak GiB"]
    columns += ["pairs/s, ratio", "peak, ratio", "first loss, difference", "last loss, difference"]
    return table(columns[: len(rows[0])], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=32, help="pairs (default 32)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a run (default 3)")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
