"""Caption generation by OpenCLIP's coca_ViT-B-32 against the same model here: seconds and memory.

    python benchmarks/generation.py --way greedy --batch 8
    python benchmarks/generation.py --way beams --batch 32 --tokens 12

The generation of open_clip_torch 3.3.0 needs an older transformers than this project's tests, so
the peer has an environment of its own:

    make .venv-peer/.installed

All contestants have the same random weights and images. They generate captions of 30 tokens,
including the first; no caption may end early. The time includes encoding the images. The peer uses
one beam group, so that both search the same space; its default of three groups takes as long.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from options import run
from peer import noise_images, peer_model
from side_by_side import (
    Figures,
    Rounds,
    Spread,
    emit,
    figure,
    forget_peak,
    in_turn,
    peak_bytes,
    ratio,
    table,
    write_report,
)
from torch import Tensor

BEAMS = 6
PEER_PYTHON = Path(__file__).parents[1] / ".venv-peer" / "bin" / "python"
CONTESTANTS = {
    "peer": "open_clip_torch",
    "fp32": "the same model here",
    "bf16": "the same model here, in bf16",
}
WAYS = {"greedy": "greedy", "beams": f"{BEAMS} beams"}

Write = Callable[[], Tensor]
"""Generates a caption for each image and returns its token ids."""


def peer(way: str, batch: int, tokens: int) -> Write:
    model, images = peer_model().eval(), noise_images(batch)
    lengths = {"seq_len": tokens, "min_seq_len": tokens - 1}
    if way == "greedy":
        return lambda: model.generate(images, generation_type="top_k", top_k=1, **lengths)
    beams = {"generation_type": "beam_search", "num_beams": BEAMS, "num_beam_groups": 1}
    return lambda: model.generate(images, **beams, **lengths)


def ours(way: str, batch: int, tokens: int, dtype: torch.dtype) -> Write:
    from coca.model.generation.generate import generate
    from coca.model.generation.generation_config import GenerationConfig
    from coca.model.layers.prepacked import prepack_weights
    from coca.model.openclip.openclip import OpenCLIP
    from coca.model.openclip.openclip_config import OpenCLIPConfig
    from coca.model.openclip.openclip_weights import convert_state_dict

    config = OpenCLIPConfig()
    model = OpenCLIP(config)
    model.load_state_dict(convert_state_dict(peer_model().state_dict(), config))
    prepack_weights(model.eval().to(dtype))  # as `coca.load` does
    decoding = GenerationConfig(
        num_beams=BEAMS if way == "beams" else 1,
        max_new_tokens=tokens - 1,
        min_new_tokens=tokens - 1,
    )
    images = noise_images(batch).to(dtype)

    def caption() -> Tensor:
        written = generate(model, model.image_tokens(images), decoding=decoding)
        return torch.tensor([[config.text.bos_id, *row[0].token_ids] for row in written])

    return caption


QUICK = {"batch": 2, "tokens": 8, "rounds": 1}
UNITS = {"seconds": "s", "own_seconds": "processor s", "peak_gb": "GB"}


def contestant(arguments: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    name, shape = arguments.contestant, (arguments.way, arguments.batch, arguments.tokens)
    if name == "peer":
        write = peer(*shape)
    else:
        write = ours(*shape, torch.float32 if name == "fp32" else torch.bfloat16)
    forget_peak()
    with torch.inference_mode():
        times, own_times = [], []
        for _ in range(arguments.repeats):
            start, own_start = time.perf_counter(), time.process_time()
            ids = write()
            times.append(time.perf_counter() - start)
            own_times.append(time.process_time() - own_start)
    # The last token differs by design: the peer's sampling loop always ends there.
    rows = {
        f"row {number}": float(hash(tuple(row[:-1]))) for number, row in enumerate(ids.tolist())
    }
    emit(
        {
            "seconds": min(times),
            "own_seconds": min(own_times),
            "peak_gb": peak_bytes() / 1e9,
            **rows,
        }
    )


def same_rows(one: Figures, other: Figures) -> Spread:
    """Compute the fraction of captions that two contestants generate alike."""
    rows = [name for name in one if name.startswith("row ")]
    return Spread.of([sum(one[name] == other[name] for name in rows) / len(rows)])


def referee(arguments: argparse.Namespace) -> Rounds:
    way, batch, tokens = arguments.way, arguments.batch, arguments.tokens
    options = ["--way", way, "--batch", str(batch), "--tokens", str(tokens)]
    # The first run of the peer is no slower than the next, and takes minutes.
    repeats = {name: 1 if name == "peer" or arguments.quick else 2 for name in CONTESTANTS}
    rounds = in_turn(
        {
            name: [*options, f"--contestant={name}", f"--repeats={repeats[name]}"]
            for name in CONTESTANTS
        },
        rounds=arguments.rounds,
        pythons={"peer": arguments.peer_python},
    )
    rows = []
    first = next(iter(rounds))
    for name, own in rounds.items():
        times = own_times = "1"
        alike = "all"
        if name != first:
            times = ratio(rounds[first], own, "seconds").shown(1)
            own_times = ratio(rounds[first], own, "own_seconds").shown(1)
            alike = f"{same_rows(rounds[first][0], own[0]).median:.0%}"
        rows.append(
            [
                CONTESTANTS[name],
                figure(own, "seconds").shown(),
                times,
                own_times,
                figure(own, "peak_gb").shown(1),
                alike,
            ]
        )
    write_report(
        arguments,
        rounds,
        f"generation-{way}-{batch}-{tokens}",
        f"Captions of {batch} images, {WAYS[way]}, {tokens} tokens",
        table(
            [
                "",
                "seconds",
                "times as fast",
                "times less processor time",
                "peak, GB",
                "same tokens",
            ],
            rows,
        ),
        f"Threads: {torch.get_num_threads()}. Median of {arguments.rounds} turns, lowest and "
        "highest in brackets. On a busy machine processor time is more reliable.",
        packages=("torch", "open_clip_torch"),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=list(WAYS), default="greedy", help="default: greedy")
    parser.add_argument("--batch", type=int, default=8, help="images (default 8)")
    parser.add_argument("--tokens", type=int, default=30, help="of a caption (default 30)")
    parser.add_argument("--repeats", type=int, default=1, help="runs within a process")
    parser.add_argument(
        "--peer-python",
        default=str(PEER_PYTHON),
        help="interpreter with open_clip_torch and transformers 4 (default .venv-peer/bin/python)",
    )
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
