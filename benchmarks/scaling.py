"""Cost of a training step as a function of batch, caption length, image tokens and model size.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --precision bf16 --rounds 1

One of the four changes while the others stay as in `BASE`. A step is forward, both losses, backward
and AdamW's update, on noise and random tokens. It runs in one thread and is measured in processor
time, which other work on the machine does not change. `rank_plan` counts the operations; the
ceiling is the peak of plain matrix products in the same process. A plot of the table is written as
SVG.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ceiling import ceiling
from options import run
from rank_plan import flop_counter
from side_by_side import Rounds, emit, figure, in_turn, table, write_report

from coca.core.malloc import keep_freed_memory
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, PoolerConfig, TextDecoderConfig
from coca.model.encoders.vit import ViTConfig
from coca.model.pretrained import count_parameters
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer

PATCH_PX, VOCAB_SIZE = 16, 8_000


@dataclass(frozen=True)
class Point:
    """The sizes of a step."""

    batch: int = 32
    caption: int = 16
    """Tokens, special ones included."""
    side: int = 128
    """Of the images, pixels."""
    width: int = 256
    layers: int = 6
    """Of the image encoder; the text decoder has as many, half of them in each of its halves."""

    @property
    def image_tokens(self) -> int:
        return (self.side // PATCH_PX) ** 2


BASE = Point()
SWEEPS: dict[str, list[Point]] = {
    "batch": [replace(BASE, batch=pairs) for pairs in (8, 16, 32, 64, 128)],
    "caption": [replace(BASE, caption=tokens) for tokens in (8, 16, 32, 64)],
    "image": [replace(BASE, side=px) for px in (64, 96, 128, 192, 256)],
    "model": [
        replace(BASE, width=width, layers=layers)
        for width, layers in ((128, 4), (256, 6), (384, 8), (512, 12))
    ],
}
TITLES = {
    "batch": "pairs of a batch",
    "caption": "tokens of a caption",
    "image": "image tokens",
    "model": "million parameters",
}


def config_of(point: Point) -> CoCaConfig:
    heads = point.width // 64
    image = ViTConfig(
        image_size=point.side,
        patch_size=PATCH_PX,
        width=point.width,
        layers=point.layers,
        heads=heads,
        mlp_width=4 * point.width,
    )
    text = TextDecoderConfig(
        vocab_size=VOCAB_SIZE,
        context_length=80,
        width=point.width,
        heads=heads,
        mlp_width=4 * point.width,
        unimodal_layers=point.layers // 2,
        multimodal_layers=point.layers // 2,
    )
    pooler = PoolerConfig(captioning_queries=min(64, image.tokens), heads=heads)
    return CoCaConfig(image=image, text=text, pooler=pooler, embed_dim=point.width)


def batch_of(point: Point, config: CoCaConfig) -> Batch:
    generator = torch.Generator().manual_seed(0)
    text = config.text
    shape = (point.batch, point.caption)
    tokens = torch.randint(4, text.vocab_size, shape, generator=generator)
    tokens[:, 0], tokens[:, -2], tokens[:, -1] = text.bos_id, text.eos_id, text.cls_id
    images = torch.randn(point.batch, 3, point.side, point.side, generator=generator)
    return Batch(images, tokens, tuple(map(str, range(point.batch))), start=0)


def measured(point: Point, *, steps: int, bf16: bool) -> tuple[float, float, float]:
    """Measure the seconds and operations of a step, and count the model's parameters."""
    torch.manual_seed(0)
    config = config_of(point)
    model, objective = CoCa(config), CoCaObjective(LossConfig())
    optimizer = make_optimizer(model, OptimizerConfig(lr=1e-4))
    batch = batch_of(point, config)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            losses = objective(model, batch)
        losses.total.backward()
        optimizer.step()

    with flop_counter() as counter:
        step()
    times = []
    for _ in range(steps):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times), counter.get_total_flops(), count_parameters(config)["total"]


QUICK = {"steps": 1, "points": 2, "rounds": 1}
UNITS = {"* seconds": "processor s", "* of ceiling": "fraction"}


def contestant(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    bf16 = arguments.precision == "bf16"
    figures: dict[str, float] = {}
    for number, point in enumerate(SWEEPS[arguments.contestant][: arguments.points]):
        seconds, flops, parameters = measured(point, steps=arguments.steps, bf16=bf16)
        figures |= {
            f"{number} seconds": seconds,
            f"{number} flops": flops,
            f"{number} parameters": parameters,
            # Measured with each point, since the speed of a shared machine drifts.
            f"{number} of ceiling": flops / seconds / ceiling(bf16=bf16, clock=time.process_time),
        }
    emit(figures)


def coordinate_of(sweep: str, point: Point, parameters: float) -> float:
    """Return the position of a point on its axis."""
    where = {"batch": point.batch, "caption": point.caption, "image": point.image_tokens}
    return where.get(sweep, parameters / 1e6)


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("precision", "steps", "points")]
    rounds = in_turn(
        {name: [*shared, "--contestant", name] for name in SWEEPS}, rounds=arguments.rounds
    )
    sections = [
        f"Around {BASE.batch} pairs, captions of {BASE.caption} tokens, {BASE.image_tokens} image "
        f"tokens, width {BASE.width} and {BASE.layers} layers. One thread, processor time; median "
        f"of {arguments.rounds} turns, each the quickest of {arguments.steps} steps."
    ]
    theme = f"scaling_{arguments.precision}"
    sections += [table(*rows_of(name, rounds)) for name in SWEEPS]
    path = write_report(
        arguments,
        rounds,
        theme,
        f"Cost of a training step, {arguments.precision}",
        *sections,
        "Plotted in the SVG file of the same name.",
        packages=("torch",),
    )
    draw(path.with_suffix(".svg"), rounds)
    return rounds


def measured_points(sweep: str, rounds: Rounds) -> list[Point]:
    """List the points of a sweep that `--points` kept."""
    count = sum(name.endswith(" seconds") for name in rounds[sweep][0])
    return SWEEPS[sweep][:count]


def rows_of(sweep: str, rounds: Rounds) -> tuple[list[str], list[list[str]]]:
    columns = [TITLES[sweep], "seconds a step", "pairs/s", "GFLOP a pair", "GFLOP/s over ceiling"]
    rows = []
    for number, point in enumerate(measured_points(sweep, rounds)):
        seconds = figure(rounds[sweep], f"{number} seconds")
        first = rounds[sweep][0]
        rows.append(
            [
                f"{coordinate_of(sweep, point, first[f'{number} parameters']):.3g}",
                seconds.shown(3),
                f"{point.batch / seconds.median:.1f}",
                f"{first[f'{number} flops'] / point.batch / 1e9:.2f}",
                figure(rounds[sweep], f"{number} of ceiling").shown(),
            ]
        )
    return columns, rows


def draw(path: Path, rounds: Rounds) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 5), layout="constrained")
    panels: Any = drawing.subplots(2, len(SWEEPS), sharey="row", sharex="col")
    for column, sweep in enumerate(rounds):
        points = measured_points(sweep, rounds)
        own = rounds[sweep]
        coordinates = [
            coordinate_of(sweep, point, own[0][f"{number} parameters"])
            for number, point in enumerate(points)
        ]
        for row, what in enumerate(("seconds", "of ceiling")):
            spreads = [figure(own, f"{number} {what}") for number in range(len(points))]
            panel = panels[row, column]
            panel.plot(coordinates, [one.median for one in spreads], marker="o", markersize=4)
            panel.fill_between(
                coordinates, [one.low for one in spreads], [one.high for one in spreads], alpha=0.25
            )
            panel.grid(alpha=0.3)
        panels[0, column].set(xscale="log", yscale="log")
        panels[0, column].set_xticks(coordinates, [f"{number:.3g}" for number in coordinates])
        panels[0, column].minorticks_off()
        panels[1, column].set(xlabel=TITLES[sweep], ylim=(0, 1))
    panels[0, 0].set_ylabel("seconds a step")
    doubled = [2.0**power for power in range(-3, 5)]
    low, high = panels[0, 0].get_ylim()
    ticks = [tick for tick in doubled if low <= tick <= high]
    panels[0, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[1, 0].set_ylabel("GFLOP/s over the ceiling")
    # Text stays text: a tenth of the size.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling"}):
        drawing.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a point (default 3)")
    parser.add_argument("--points", type=int, default=5, help="first points of each sweep (5)")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
