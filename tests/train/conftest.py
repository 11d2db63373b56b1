import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from coca.model.coca import CoCa
from coca.train.trainer import Trainer
from tiny_run import tiny_trainer

WholeRun = Callable[[str], Trainer[CoCa]]
"""From an optimizer to its whole run; tests only read it."""


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """Train a whole run of each optimizer once for all tests."""

    @cache
    def train(optimizer: str) -> Trainer[CoCa]:
        trainer = tiny_trainer(tmp_path_factory.mktemp("whole"), optimizer=optimizer)
        trainer.fit()
        return trainer

    return train


@pytest.fixture
def uninterrupted(whole_run: WholeRun, tmp_path: Path) -> Trainer[CoCa]:
    """A whole run, with a copy of its folder in `whole`."""
    trainer = whole_run("adamw")
    shutil.copytree(trainer.run_dir, tmp_path / "whole")
    return trainer
