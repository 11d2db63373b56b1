"""Blocks of settings in the docs are valid in a recipe."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from coca.core.config.frozen_config import load_config
from coca.model.coca import CoCa
from coca.train.optim.optimizer import make_optimizer
from coca.train.optim.param_groups import freeze
from coca.workflows.training.pretrain import PretrainConfig
from everyday_plugin import register_losses

ROOT = Path(__file__).parent.parent.parent
PAGES = ("data.md", "training.md")

SHOWN = [
    (page, number, block)
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.S | re.M)
    )
]


@pytest.mark.parametrize(("page", "number", "block"), SHOWN)
def test_a_block_of_settings_is_valid_in_a_recipe(
    page: str, number: int, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_losses(monkeypatch)
    settings = yaml.safe_load(block)
    recipe = ROOT / "recipes" / "pretrain" / "emoji.yaml"
    config = load_config(PretrainConfig, recipe, settings)
    assert config != load_config(PretrainConfig, recipe)
    with torch.device("meta"):
        model = CoCa(config.model)
    # Only the model has the names of parameters.
    freeze(model, config.train.optimizer.freeze)
    assert make_optimizer(model, config.train.optimizer).param_groups
