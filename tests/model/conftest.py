import pytest
import torch
from torch import Tensor

from coca.model.coca import CoCa
from tiny import caption, seed_weights, sharpened, tiny_config


@pytest.fixture
def tiny_model() -> CoCa:
    seed_weights()
    return sharpened(CoCa(tiny_config())).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def tokens() -> Tensor:
    rows = [(7, 8, 9, 10), (11,), (12, 13)]
    return torch.tensor([caption(*row, length=8) for row in rows])
