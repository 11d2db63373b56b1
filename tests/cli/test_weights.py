import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from coca.cli import defaults
from coca.cli.console import Console
from coca.inference.loading import fingerprint
from tiny_weights import FolderHub, write_open_clip

Run = Callable[..., Result]
RunJson = Callable[..., Any]


@pytest.fixture
def theirs(place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    return str(write_open_clip(place / "theirs"))


def test_weights_of_open_clip_are_converted_both_ways(
    run: Run, run_json: RunJson, theirs: str
) -> None:
    assert "is now in ours" in run("convert", theirs, "ours").stdout
    assert run_json("convert", "ours", "back.safetensors") == {"out": "back.safetensors"}
    assert run_json("convert", "ours", "back", "--to", "openclip") == {"out": "back"}
    vocabulary = str(Path(theirs) / "tokenizer.json")
    run("convert", "back.safetensors", "again", "--vocabulary", vocabulary)
    assert fingerprint("again") == fingerprint("ours")


def test_a_converted_model_is_described_and_embeds(
    run_json: RunJson, theirs: str, images: list[str]
) -> None:
    output = run_json("info", theirs)
    assert output["config"]["pooler_queries"] == 5
    assert run_json("embed", *images, "-t", "the cat", "-m", theirs)["rows"] == 4
    assert run_json("info", "openclip_vit_l_14")["parameters"]["total"] == 638_450_177


def test_warnings_are_printed_on_stderr(run: Run, theirs: str, images: list[str]) -> None:
    run("convert", theirs, "ours")
    Path("ours/source.json").write_text('{"caveat": "it cannot search"}')
    output = run("index", "photos", "-m", "ours", "--uri", "x.db", "--no-captions")
    assert "warning: ours: it cannot search" in output.stderr
    output = run("search", "a cat", "-m", "ours", "--uri", "x.db")
    assert "warning: ours: it cannot search" in output.stderr


def test_an_exported_model_has_a_card(run: Run, run_json: RunJson, model: str) -> None:
    output = run("export", model, "shared", "--title", "Tiny", "--licence", "cc0-1.0", "--half")
    assert "its card is shared/README.md" in output.stdout.replace("\n", " ")
    assert "# Tiny" in Path("shared/README.md").read_text()
    assert "states no licence" not in output.stdout
    assert "states no licence" in run("export", model, "third").stdout
    assert run_json("export", model, "again") == {"out": "again", "pushed": None}


def test_an_exported_model_is_pushed_if_asked(
    run: Run, place: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FolderHub(place / "hub")
    monkeypatch.setattr("coca.release.export.HuggingFace", lambda: hub)
    output = run("export", model, "shared", "--push", "me/tiny")
    assert "others load it as hf:me/tiny" in output.stdout
    assert 'coca.load("hf:me/tiny")' in (place / "hub/me/tiny/README.md").read_text()


def test_a_model_of_the_paper_cannot_go_to_open_clip(run: Run, model: str) -> None:
    assert "OpenCLIP has no model" in run("convert", model, "w.bin", code=1).stderr


def test_quiet_hides_the_bars_of_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    defaults.keep_downloads_quiet(Console())
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
    defaults.keep_downloads_quiet(Console(quiet=True))
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")


@pytest.mark.parametrize("name", ["openclip:coca_ViT-B-32/laion2b_s13b_b90k", "hf:some/model"])
def test_without_the_hub_package_the_command_that_brings_it_is_reported(
    run: Run, place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "coca-captioners[hub]" in run("embed", "-t", "a", "-m", name, code=1).stderr


def test_options_of_another_export_format_are_an_error(run: Run, model: str) -> None:
    output = run("export", model, "out", "--format", "onnx", "--half", "--title", "T", code=2)
    assert "--title, --half do not apply to --format onnx" in output.stderr.replace("\n", " ")
    output = run("export", model, "out", "--int8", code=2)
    assert "--int8 and --images apply to --format onnx" in output.stderr.replace("\n", " ")
    assert not Path("out").exists()
