from pathlib import Path

import pytest

from coca.model.coca import CoCa
from coca.train.trainer import Trainer
from tiny_run import tiny_trainer


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Trainer[CoCa]:
    trainer = tiny_trainer(tmp_path / "whole")
    trainer.fit()
    return trainer
