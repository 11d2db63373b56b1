import sys
from pathlib import Path

import pytest

from coca.inference.loading import fingerprint
from tiny_cli import Run, RunJson
from tiny_openclip import write_open_clip


@pytest.fixture
def theirs(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cwd / "cache"))
    return str(write_open_clip(cwd / "theirs"))


def test_weights_of_open_clip_are_converted_both_ways(
    run: Run, run_json: RunJson, theirs: str
) -> None:
    assert "is now in ours" in run("convert", theirs, "ours").stdout
    assert run_json("convert", "ours", "back.safetensors") == {"out": "back.safetensors"}
    assert run_json("convert", "ours", "back", "--to", "openclip") == {"out": "back"}
    vocabulary = str(Path(theirs) / "tokenizer.json")
    run("convert", "back.safetensors", "again", "--vocabulary", vocabulary)
    assert fingerprint("again") == fingerprint("ours")


def test_an_onnx_file_as_output_is_refused_with_the_command_that_writes_it(
    run: Run, cwd: Path
) -> None:
    stderr = run("convert", "everyday", "m.onnx", code=2).stderr
    assert stderr.endswith(": coca export everyday m --format onnx\n")
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("name", ["openclip:coca_ViT-B-32/laion2b_s13b_b90k", "hf:some/model"])
def test_without_the_hub_package_the_command_that_brings_it_is_reported(
    run: Run, cwd: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cwd / "cache"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "coca-captioners[hub]" in run("embed", "-t", "a", "-m", name, code=1).stderr
