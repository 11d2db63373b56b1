import json
import shutil
from pathlib import Path

import pytest

from coca.core.errors import ConfigError, MissingExtraError
from coca.metrics.ptb import words
from coca.tasks.meteor import meteor, require_meteor
from developer_data import sample_file

OFFICIAL = "metrics/coco_fakecap_126.json"


@pytest.fixture
def program() -> None:
    pytest.importorskip("pycocoevalcap", reason="METEOR comes with pycocoevalcap, not installed")
    if shutil.which("java") is None:
        pytest.skip("METEOR is a Java program, and there is no Java here")


@pytest.mark.slow
def test_the_score_of_126_real_captions_is_the_official_one(program: None) -> None:
    path = sample_file(OFFICIAL, "comparison with the official scores of 126 captions")
    official = json.loads(path.read_text())
    keys = list(official["refs"])
    found = meteor(
        [words(official["cands"][key]) for key in keys],
        [[words(reference) for reference in official["refs"][key]] for key in keys],
    )
    assert found == pytest.approx(official["scores"]["METEOR"], abs=1e-4)


def test_missing_java_is_reported_before_anything_is_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pycocoevalcap", reason="METEOR comes with pycocoevalcap, not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no `java` on the path"):
        require_meteor()


def test_without_its_package_the_pip_command_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.meteor.meteor", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        require_meteor()


def test_a_program_that_dies_is_an_error_and_no_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pycocoevalcap", reason="METEOR comes with pycocoevalcap, not installed")
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ConfigError, match="METEOR program stopped"):
        meteor([["a", "cat"]], [[["a", "dog"]]])
