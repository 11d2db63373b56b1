import json
from pathlib import Path

import pytest
import torch

from coca.data.sources.tar.shards import ShardWriter
from coca.model.encoders.efficientnet import EfficientNetLite
from coca.processing.tokenizer import Tokenizer
from tiny_cli import Run, RunJson
from tiny_data import make_samples


@pytest.fixture
def shards(cwd: Path) -> Path:
    with ShardWriter(cwd / "shards", samples_per_shard=2) as writer:
        for sample in make_samples(5):
            writer.write(sample)
    return cwd / "shards"


def test_a_tokenizer_is_learned_from_any_source(
    run: Run, run_json: RunJson, shards: Path, images: list[str]
) -> None:
    Path("photos/0.txt").write_text("a red car", encoding="utf-8")
    Path("table.csv").write_text("image,caption\nphotos/0.png,two dogs play\n", encoding="utf-8")
    for sources in (["shards"], ["shards/*.tar"], ["photos"], ["table.csv"], ["photos", "shards"]):
        output = run_json("data", "tokenizer", *sources, "--vocab-size", "280", "-o", "t.json")
        assert output == {"out": "t.json", "vocab_size": Tokenizer.load("t.json").vocab_size}
        assert 260 < output["vocab_size"] <= 280
    assert "pieces is in tokenizer.json" in run("data", "tokenizer", "shards").stdout


def test_tars_are_indexed_and_counted(run: Run, run_json: RunJson, shards: Path) -> None:
    for index in shards.glob("*.idx"):
        index.unlink()
    assert run_json("data", "index", "shards") == {"tars": 3, "samples": 5}
    assert len(list(shards.glob("*.idx"))) == 3
    assert (
        "3 tars contain 5 samples"
        in run("data", "index", "shards/shard-{000000..000002}.tar").stdout
    )
    run("data", "index", "shards", "--index-folder", "elsewhere")
    assert len(list(Path("elsewhere").iterdir())) == 3


def test_features_are_computed_once_and_listed(
    run: Run, run_json: RunJson, shards: Path, cwd: Path
) -> None:
    torch.save(EfficientNetLite("lite0", 0).state_dict(), "weights.pth")
    recipe = {
        "run": "run",
        "model": {
            "preset": "coca_tiny",
            "image": {"kind": "efficientnet_lite", "image_size": 32, "width": 192},
        },
        "encoder_weights": {"file": "weights.pth"},
        "data": {
            "sources": [{"kind": "shards", "path": "shards/*.tar"}],
            "features": {"folder": "features"},
        },
        "train": {"steps": 1, "optimizer": {"freeze": ["image_encoder.backbone"]}},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    (file,) = run_json("data", "features", "recipe.yaml")["files"]
    path = Path(file["path"])
    # A header, then one token of 1,280 features in fp16, a checksum and a flag for each image.
    assert file["bytes"] == path.stat().st_size == 4096 + 5 * (2 * 1280 + 4 + 4)
    changed = path.stat().st_mtime_ns
    assert (
        "contains 5 images, 1 views of 1 x 1280 features"
        in run("data", "features", "recipe.yaml").stdout
    )
    assert path.stat().st_mtime_ns == changed
    result = run("data", "features", "recipe.yaml", "data.features=null", code=2)
    assert "data.features is not set" in result.stderr
