"""Memory that a rank needs to start and to resume a sharded run, by the number of ranks.

    python benchmarks/resume.py
    python benchmarks/resume.py --ranks 2 16

Gloo ranks of one machine train a model of 21 million parameters by FSDP, with AdamW and averages,
and resume it in new processes. Shards are all tensors of a rank after that: weights, moments and
averages. Memory is the peak of the resident set, less what the process had before it built the
trainer. Ranks that each read the whole checkpoint would need `whole` at least.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from options import run
from side_by_side import Figures, Rounds, figure, table, write_report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from resume_memory import first_step, resume
from tiny_ranks import on_ranks

GOAL = 1.3
"""Peak memory over shards."""
QUICK = {"ranks": [2], "rounds": 1}
UNITS = {"*_mb": "MB", "ratio": "peak over shards"}


def measured(ranks: int) -> Figures:
    """Train one step, resume on as many ranks, and return the figures of the worst rank."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        on_ranks(ranks, path, partial(first_step, path / "run"))
        found = on_ranks(ranks, path, partial(resume, path / "run"))
    shards = [rank["shards"] / 1e6 for rank in found]
    return {
        "shards_mb": max(shards),
        "peak_mb": max(rank["grown"] for rank in found) / 1e6,
        "read_mb": max(rank["read"] for rank in found) / 1e6,
        "whole_mb": sum(shards),
        "ratio": max(rank["grown"] / rank["shards"] for rank in found),
    }


def referee(arguments: argparse.Namespace) -> Rounds:
    rounds = Rounds({f"{ranks} ranks": [] for ranks in arguments.ranks})
    for _ in range(arguments.rounds):
        for ranks in arguments.ranks:
            rounds[f"{ranks} ranks"].append(measured(ranks))
    columns = ["", "shards of a rank, MB", "peak, MB", "peak / shards", "read, MB", "whole, MB"]
    rows = [
        [
            name,
            figure(own, "shards_mb").shown(0),
            figure(own, "peak_mb").shown(0),
            figure(own, "ratio").shown(),
            figure(own, "read_mb").shown(0),
            figure(own, "whole_mb").shown(0),
        ]
        for name, own in rounds.items()
    ]
    goal = f"Goal: at most {GOAL} times the shards. Of each round, the rank with the highest value."
    write_report(
        arguments,
        rounds,
        "resume",
        "Memory of a rank that resumes a run of FSDP",
        goal,
        table(columns, rows),
        packages=("torch",),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8], help="numbers of ranks")
    run(parser, referee=referee, quick=QUICK, units=UNITS)
