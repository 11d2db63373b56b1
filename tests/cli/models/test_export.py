from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tiny_weights import FolderHub

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_an_exported_model_has_a_card(run: Run, run_json: RunJson, model: str) -> None:
    output = run("export", model, "shared", "--title", "Tiny", "--licence", "cc0-1.0", "--half")
    assert "its card is shared/README.md" in output.stdout.replace("\n", " ")
    assert "# Tiny" in Path("shared/README.md").read_text()
    assert "states no licence" not in output.stdout
    assert "states no licence" in run("export", model, "third").stdout
    assert run_json("export", model, "again") == {"out": "again", "pushed": None}


def test_an_exported_model_is_pushed_if_asked(
    run: Run, cwd: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FolderHub(cwd / "hub")
    monkeypatch.setattr("coca.release.export.HuggingFace", lambda: hub)
    output = run("export", model, "shared", "--push", "me/tiny")
    assert "others load it as hf:me/tiny" in output.stdout
    assert 'coca.load("hf:me/tiny")' in (cwd / "hub/me/tiny/README.md").read_text()


def test_options_of_another_export_format_are_an_error(run: Run, model: str) -> None:
    output = run("export", model, "out", "--format", "onnx", "--half", "--title", "T", code=2)
    assert "--title, --half do not apply to --format onnx" in output.stderr.replace("\n", " ")
    output = run("export", model, "out", "--int8", code=2)
    assert "--int8 and --images apply to --format onnx" in output.stderr.replace("\n", " ")
    page = ("--no-image-search", "--uri", "images.db")
    output = run("export", model, "out", "--format", "onnx", *page, code=2)
    assert "--uri, --no-image-search do not apply" in output.stderr.replace("\n", " ")
    output = run("export", model, "out", "--no-image-search", code=2)
    assert "--no-image-search does not apply to --format coca" in output.stderr.replace("\n", " ")
    assert not Path("out").exists()
