import logging
import os
import platform
import subprocess
import sys

import pytest
import torch

from coca.core.config.execution import Precision
from coca.model import pretrained
from coca.model.pretrained import MIN_GAIN, bf16_gain, resolve_precision

CPU = torch.device("cpu")
MEASURE = "import torch; from coca.model.pretrained import *; d = torch.device('cpu')"


@pytest.mark.parametrize(
    ("gain", "chosen"), [(4.0, "bf16"), (MIN_GAIN, "bf16"), (1.0, "fp32"), (0.1, "fp32")]
)
def test_auto_is_bf16_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, gain: float, chosen: str
) -> None:
    monkeypatch.setattr(pretrained, "bf16_gain", lambda _: gain)
    assert resolve_precision("auto", CPU) == chosen


def test_a_slow_bf16_is_used_as_requested_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pretrained, "bf16_gain", lambda _: 0.125)
    with caplog.at_level(logging.WARNING):
        assert resolve_precision("bf16", CPU) == "bf16"
    assert "products take 8.0 times as long as in fp32" in caplog.text


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_other_precisions_need_no_measurement(
    monkeypatch: pytest.MonkeyPatch, name: Precision
) -> None:
    monkeypatch.setattr(pretrained, "bf16_gain", None)
    assert resolve_precision(name, CPU) == name


def test_the_gain_is_measured_once_per_process() -> None:
    assert bf16_gain(CPU) > 0
    assert bf16_gain(CPU) == bf16_gain(CPU)
    assert bf16_gain(torch.device("meta")) == 1.0


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the setting is one of x86")
def test_without_bf16_instructions_auto_is_fp32() -> None:
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", f"{MEASURE}; print(resolve_precision('auto', d))"],
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["fp32"]
