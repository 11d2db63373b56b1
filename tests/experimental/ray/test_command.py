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
