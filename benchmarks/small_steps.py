"""Processor time of small steps: the help, the first vector, tokens, draws, and large JPEG files.

    python benchmarks/small_steps.py

Each step is short enough that nobody waits for it; a figure of another order shows a fault, such as
an import of torch for `coca --help`.
"""

import argparse
import io
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from options import run
from PIL import Image
from side_by_side import Rounds, emit, figure, in_turn, table, write_report

Step = Callable[[], object]
CAPTION = "a red car in front of an old brick house with two small windows, number {}"
HELP = [sys.executable, "-m", "coca", "--help"]
FIRST_VECTOR = "import coca; coca.load(device='cpu').embed_texts(['a cat'])"


def tokens() -> Step:
    """Return the tokenization of 1,000 captions."""
    from coca.processing.tokenizer import Tokenizer

    captions = [CAPTION.format(number) for number in range(1000)]
    tokenizer = Tokenizer.train(captions, vocab_size=400)
    return partial(tokenizer.encode, captions, context_length=76)


def draws() -> Step:
    """Return 1,000 draws of a mixture, far from its start."""
    from coca.data.loading.mixture import Mixture

    mixture = Mixture([10**9, 10**7], [0.9, 0.1], seed=0, block_sizes=[256, 1])
    return partial(mixture.draw, np.arange(10**12, 10**12 + 1000))


def jpeg(at_least: int | None) -> Step:
    """Return the decoding of a JPEG of 12 megapixels, whole or at a fraction of its size."""
    from coca.processing.image import decode

    pixels = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return partial(decode, stream.getvalue(), at_least=at_least)


def children_s() -> float:
    """Return the processor time of ended children, seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process(command: list[str]) -> float:
    """Return the processor time of a command, seconds."""
    before = children_s()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return children_s() - before


def fastest(step: Step) -> float:
    """Return the least processor time of five runs of a step in this process, seconds."""
    times_s = []
    for _ in range(5):
        start_s = time.process_time()
        step()
        times_s.append(time.process_time() - start_s)
    return min(times_s)


STEPS: dict[str, Callable[[], float]] = {
    "coca --help": lambda: process(HELP),
    "first text vector": lambda: process([sys.executable, "-c", FIRST_VECTOR]),
    "1,000 captions to tokens": lambda: fastest(tokens()),
    "1,000 draws of a mixture": lambda: fastest(draws()),
    "12 MP JPEG, whole": lambda: fastest(jpeg(None)),
    "12 MP JPEG, for 224 px": lambda: fastest(jpeg(224)),
}


def contestant(arguments: argparse.Namespace) -> None:
    emit({"processor_ms": 1000 * STEPS[arguments.contestant]()})


def referee(arguments: argparse.Namespace) -> Rounds:
    measured = in_turn({name: [f"--contestant={name}"] for name in STEPS}, rounds=arguments.rounds)
    rows = [(name, figure(runs, "processor_ms").shown(1)) for name, runs in measured.items()]
    columns = ["step", "processor time, ms"]
    write_report(arguments, measured, "small-steps", "Small steps", table(columns, rows))
    return measured


if __name__ == "__main__":
    run(
        argparse.ArgumentParser(description=__doc__),
        referee=referee,
        contestant=contestant,
        quick={"rounds": 1},
        units={"processor_ms": "ms"},
    )
