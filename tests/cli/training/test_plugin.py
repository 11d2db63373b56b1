"""The example of a plugin adds a part of each kind, used by the commands as a user would."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_data import image_bytes
from tiny_run import read_metrics

EXAMPLE = Path(__file__).parents[3] / "examples" / "plugin.py"

RECIPE = """
model:
  image: {kind: patch_conv}
  text: {vocab_size: 40, context_length: 12, width: 32, heads: 2, mlp_width: 32,
         unimodal_layers: 1, multimodal_layers: 1}
  pooler: {captioning_queries: 2, heads: 2}
  embed_dim: 32
data:
  sources: [{kind: named_files, path: pictures}]
  loader: {batch_size: 3, workers: 1}
  augment: {extra: [invert]}
tokenizer: {kind: words}
loss: {contrastive: triplet}
train: {steps: 8, log_every: 2, optimizer: {lr: 0.003}, schedule: {decay: steps, warmup: 0}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(("red_car", "blue_car", "green_frog", "red_frog")):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(image_bytes(number))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    # The name of the file is that of its module.
    shutil.copy(EXAMPLE, tmp_path / "my_parts.py")
    return tmp_path


def run(folder: Path, *words: str, code: int = 0) -> str:
    """Run a command in a process of its own, since what a plugin registers stays."""
    done = subprocess.run(
        [sys.executable, "-m", "coca", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.slow
def test_one_file_adds_a_part_of_each_kind(folder: Path) -> None:
    plugin = ("--plugin", "my_parts.py")
    run(folder, "pretrain", "recipe.yaml", "run=run", *plugin)
    rates = [row["lr"] for row in read_metrics(folder / "run")]
    assert rates == pytest.approx([0.003, 0.003, 0.0003, 0.00003])
    saved = json.loads((folder / "run" / "model" / "tokenizer.json").read_text())["model"]
    assert saved["type"] == "WordLevel"
    assert {"red", "car", "frog"} < saved["vocab"].keys()
    data = ("data.kind=named_files", "data.path=pictures")
    scores = run(folder, "evaluate", "run", "caption_length", *data, *plugin, "--json")
    assert '"words"' in scores


@pytest.mark.slow
def test_without_the_file_each_name_is_unknown(folder: Path) -> None:
    errors = run(folder, "pretrain", "recipe.yaml", "run=run", code=2)
    for name in ("patch_conv", "named_files", "invert", "words", "triplet", "steps"):
        assert f"'{name}'" in errors
