import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from tiny_data import image_bytes

pytest.importorskip("pyarrow")


def test_tars_are_embedded_once_and_indexed_without_a_model(
    run: Callable[..., Result], run_json: Callable[..., Any], model: str, cwd: Path
) -> None:
    with ShardWriter("shards", samples_per_shard=2) as writer:
        for n in range(5):
            writer.write(Sample(f"k{n}", image_bytes(n)))
    output = run_json("embed-shards", "shards/*.tar", "--out", "vectors", "-m", model)
    assert [one["images"] for one in output["shards"]] == [2, 2, 1]
    printed = run("embed-shards", "shards", "-o", "vectors", "-m", model).stdout
    assert "0 of 3 tars embedded now, 3 found done: 5 images are in vectors" in printed
    # The model that is named is not looked for.
    filled = run_json("index", "vectors", "-m", "absent")
    assert (filled["added"], filled["count"]) == (5, 5)
    Path("one.png").write_bytes(image_bytes(1))
    (hit,) = run_json("search", "--image", "one.png", "-k", "1")
    assert hit["path"] == str(Path("shards/shard-000000.tar/k1").absolute())


def test_a_bad_tar_fails_the_command_after_the_others_are_done(
    run: Callable[..., Result], model: str, cwd: Path
) -> None:
    with ShardWriter("shards", samples_per_shard=1) as writer:
        for n in range(2):
            writer.write(Sample(f"k{n}", image_bytes(n)))
    Path("shards/shard-000000.tar").write_bytes(b"no tar")
    Path("shards/shard-000000.tar.idx").unlink()
    ended = run("embed-shards", "shards", "-o", "vectors", "-m", model, code=1)
    assert "shard-000000.tar" in ended.stderr
    assert "1 of 2 tars embedded now, 0 found done, 1 bad" in ended.stdout


@pytest.mark.slow
@pytest.mark.distributed
def test_processes_of_torchrun_share_the_tars(
    run_json: Callable[..., Any], model: str, cwd: Path
) -> None:
    with ShardWriter("shards", samples_per_shard=2) as writer:
        for n in range(8):
            writer.write(Sample(f"k{n}", image_bytes(n)))
    command = ["embed-shards", "shards", "--out", "vectors", "--model", model, "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    output = subprocess.run(
        [sys.executable, *launcher, "-m", "coca", *command],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    # Each reports what it made itself; together that is every tar, and none twice.
    made = [int(n) for n in re.findall(r"(\d+) of 4 tars embedded now", output.stdout)]
    assert len(made) == 2
    assert sum(made) == len(list(Path("vectors").glob("*.parquet"))) == 4
    filled = run_json("index", "vectors")
    assert (filled["added"], filled["count"]) == (8, 8)
