"""A large contrastive step of a CLIP model against sentence-transformers' cached loss.

    python benchmarks/cached_loss.py --pairs 256 --micro-batch 32

Both load the same folder of transformers with random weights, and make updates from the same pixels
and tokens: sentence-transformers by `CachedMultipleNegativesRankingLoss` in both directions, this
package by the steps of `coca finetune retrieval`. Both embed the pairs in micro-batches without a
graph, and then run each micro-batch again with its graph. Optimizer and its settings are the same.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from options import run
from side_by_side import (
    Rounds,
    Unavailable,
    emit,
    figure,
    in_turn,
    peak_bytes,
    ratio,
    table,
    write_report,
)
from torch import Tensor

SCALE, LR, CONTEXT, SIDE = 20.0, 1e-4, 32, 224
NAMES = {"peer": "sentence-transformers, cached loss", "ours": "coca finetune retrieval"}
QUICK = {"pairs": 32, "micro_batch": 8, "rounds": 1, "steps": 1}
UNITS = {"seconds": "s", "pairs_per_s": "pairs/s", "peak_bytes": "bytes"}

Step = Callable[[], float]
"""Makes one update and returns the loss before it."""


def write_clip(folder: Path) -> None:
    """Write a CLIP model of transformers: ViT-B/32 of half the width, and a tokenizer of bytes."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    torch.manual_seed(0)
    letters = sorted(ByteLevel.alphabet())
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    text = {
        "vocab_size": len(tokens),
        "max_position_embeddings": CONTEXT,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 1,
        "pad_token_id": 0,
    }
    image = {
        "image_size": SIDE,
        "patch_size": 32,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
    }
    config = transformers.CLIPConfig(
        text_config=text,
        vision_config=image,
        projection_dim=256,
        logit_scale_init_value=float(torch.tensor(SCALE).log()),
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    make_processor: Any = transformers.CLIPProcessor
    make_processor(
        transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}),
        transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CONTEXT),
    ).save_pretrained(folder)


def inputs(pairs: int) -> tuple[Tensor, Tensor]:
    """Generate noise, and captions of 5 to 30 tokens, padded to the longest."""
    random = torch.Generator().manual_seed(1)
    end = 2 * 256 + 1
    tokens = torch.randint(1, end - 1, (pairs, CONTEXT), generator=random)
    lengths = torch.randint(5, 31, (pairs, 1), generator=random)
    positions = torch.arange(CONTEXT)
    tokens[:, 0] = end - 1
    tokens = torch.where(positions == lengths - 1, end, tokens)
    tokens = torch.where(positions >= lengths, 0, tokens)[:, : int(lengths.max())]
    return torch.randn(pairs, 3, SIDE, SIDE, generator=random), tokens


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)


def peer_step(folder: Path, arguments: argparse.Namespace) -> Step:
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import (
            CachedMultipleNegativesRankingLoss,
        )
    except ImportError as error:
        raise Unavailable("sentence-transformers 6 is not installed") from error
    model: Any = SentenceTransformer(str(folder), device="cpu").train()
    loss = CachedMultipleNegativesRankingLoss(
        model,
        scale=SCALE,
        mini_batch_size=arguments.micro_batch,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    optimizer = optimizer_of(model)
    pixels, tokens = inputs(arguments.pairs)
    mask = (tokens != 0).long()

    def step() -> float:
        optimizer.zero_grad()
        features = [
            {"pixel_values": pixels, "modality": "image"},
            {"input_ids": tokens, "attention_mask": mask, "modality": "text"},
        ]
        total = loss(features, None)
        total.backward()
        optimizer.step()
        return total.item()

    return step


def our_step(folder: Path, arguments: argparse.Namespace) -> Step:
    from coca.core.malloc import keep_freed_memory
    from coca.data.batch import Batch
    from coca.inference.tower import load_tower
    from coca.train.backward import backward
    from coca.train.distributed.parallel import ParallelModel
    from coca.train.objective import ContrastiveObjective, LossConfig
    from coca.workflows.training.finetune_retrieval import PairModel

    keep_freed_memory()
    model = ParallelModel(PairModel(load_tower(folder)), "none", device=torch.device("cpu"))
    objective = ContrastiveObjective(
        LossConfig(captioning_weight=0.0, contrastive="softmax", contrastive_reduction="mean")
    )
    # The scale of the peer's loss is not learned.
    model.model.log_scale.requires_grad_(False)
    optimizer = optimizer_of(model.model)
    pixels, tokens = inputs(arguments.pairs)
    batch = Batch(pixels, tokens, tuple(map(str, range(len(tokens)))), start=0)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        losses = backward(model, objective, batch, micro_batch=arguments.micro_batch)
        optimizer.step()
        return losses.total.item()

    return step


STEPS = {"peer": peer_step, "ours": our_step}


def contestant(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder))
        step = STEPS[arguments.contestant](Path(folder), arguments)
    losses, times = [step()], []
    for _ in range(arguments.steps):
        begun = time.perf_counter()
        losses.append(step())
        times.append(time.perf_counter() - begun)
    emit(
        {
            "seconds": min(times),
            "pairs_per_s": arguments.pairs / min(times),
            "peak_bytes": peak_bytes(),
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }
    )


def referee(arguments: argparse.Namespace) -> Rounds:
    names = ("pairs", "micro_batch", "steps")
    shared = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    rounds = in_turn(
        {name: [f"--contestant={name}", *shared] for name in STEPS}, rounds=arguments.rounds
    )
    rows = []
    for name, own in rounds.items():
        row = [NAMES[name], figure(own, "seconds").shown(2), figure(own, "pairs_per_s").shown(1)]
        row.append(ratio(own, rounds["peer"], "pairs_per_s").shown() if "peer" in rounds else "")
        row.append(f"{figure(own, 'peak_bytes').median / 2**30:.2f}")
        row.append(ratio(own, rounds["peer"], "peak_bytes").shown() if "peer" in rounds else "")
        row += [f"{own[0]['first_loss']:.5f}", f"{own[0]['last_loss']:.5f}"]
        rows.append(row)
    columns = ["", "seconds", "pairs/s", "pairs/s, ratio", "peak GiB", "peak, ratio"]
    write_report(
        arguments,
        rounds,
        f"cached_loss_{arguments.pairs}",
        f"A step of {arguments.pairs:,} pairs in micro-batches of {arguments.micro_batch}, fp32",
        table([*columns, "first loss", "last loss"], rows),
        packages=("torch", "transformers", "sentence-transformers"),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=256, help="of a step (default 256)")
    parser.add_argument("--micro-batch", type=int, default=32, help="pairs of a part (default 32)")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a run (default 2)")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
