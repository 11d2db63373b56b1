import os

import pytest
import torch

from coca.core.errors import ConfigError
from coca.train.device import CUBLAS_WORKSPACE, deterministic_algorithms, training_device


@pytest.mark.parametrize(("there", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(
    there: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert training_device("auto") == torch.device(found)
    assert training_device("cpu") == torch.device("cpu")
    assert training_device("cuda:1") == torch.device("cuda", 1)


def test_deterministic_algorithms_are_for_the_time_of_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == CUBLAS_WORKSPACE
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_an_operation_without_a_deterministic_algorithm_raises() -> None:
    # torch has none for this operation on a CPU either.
    pooled, positions = torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    message = r"max_unpooling2d\S* has no deterministic algorithm"
    with pytest.raises(ConfigError, match=message), deterministic_algorithms(True):
        torch.nn.functional.max_unpool2d(pooled, positions, [2])
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^mine$"), deterministic_algorithms(True):
        raise RuntimeError("mine")
