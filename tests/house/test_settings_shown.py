"""Blocks of settings in the docs are valid in a recipe."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from coca.core.config.frozen_config import load_config
from coca.data.sources.source import SourceConfig
from coca.model.coca import CoCa
from coca.train.optim.optimizer import make_optimizer
from coca.train.optim.param_groups import freeze
from coca.workflows.training.pretrain import PretrainConfig

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
def test_a_block_of_settings_is_valid_in_a_recipe(page: str, number: int, block: str) -> None:
    settings = yaml.safe_load(block)
    recipe = ROOT / "recipes" / "pretrain" / "emoji.yaml"
    config = load_config(PretrainConfig, recipe, settings)
    assert config != load_config(PretrainConfig, recipe)
    with torch.device("meta"):
        model = CoCa(config.model)
    # Only the model has the names of parameters.
    freeze(model, config.train.optimizer.freeze)
    assert make_optimizer(model, config.train.optimizer).param_groups


def test_the_settings_of_each_kind_of_source_are_listed() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*) \| `(\w+Config)` \|$", page, re.M)
    listed: dict[str, tuple[str, list[str]]] = {}
    for kinds, settings, name in rows:
        own = [*re.findall(r"`(\w+)`", settings)]
        if own[0] in listed:  # those of another kind, and more
            own = [*listed[own[0]][1], *own[1:]]
        listed |= dict.fromkeys(re.findall(r"`(\w+)`", kinds), (name, own))
    shared = {field.name for field in fields(SourceConfig)}
    assert listed == {
        kind: (config.__name__, [it.name for it in fields(config) if it.name not in shared])
        for kind, config in SourceConfig.kinds().items()
    }


def test_every_page_has_blocks_of_settings() -> None:
    assert {page for page, _, _ in SHOWN} == set(PAGES)
