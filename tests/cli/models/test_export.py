from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coca.release.export import EXPORTERS
from folder_hub import FolderHub
from tiny_cli import Run, RunJson


def test_an_exported_model_has_a_card(run: Run, run_json: RunJson, model: str) -> None:
    card = ("--card", "title=Tiny", "--card", "licence=cc0-1.0")
    output = run("export", model, "shared", *card, "--half")
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


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["m.onnx"], "coca export MODEL m --format onnx"),
        (["m.onnx", "--int8"], "coca export MODEL m --format onnx --int8"),
        (["m.safetensors"], "coca export MODEL m"),
    ],
)
def test_a_file_as_output_is_refused_with_the_command_that_writes_it(
    run: Run, arguments: list[str], command: str, cwd: Path
) -> None:
    stderr = run("export", "MODEL", *arguments, code=2).stderr
    assert stderr.endswith(f"written by: {command}\n")
    assert list(cwd.iterdir()) == []


def test_options_of_another_export_format_are_an_error(run: Run, model: str) -> None:
    output = run("export", model, "out", "--format", "onnx", "--half", "--card", "title=T", code=2)
    assert "--card, --half do not apply to --format onnx" in output.stderr.replace("\n", " ")
    output = run("export", model, "out", "--format", "listing", "--half", code=2)
    assert "--half does not apply to --format listing" in output.stderr.replace("\n", " ")
    output = run("export", model, "out", "--int8", code=2)
    assert "--int8 and --images apply to --format onnx" in output.stderr.replace("\n", " ")
    assert not Path("out").exists()


def test_a_plug_in_adds_an_export_format(
    run: Run, run_json: RunJson, cwd: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_listing(model: str, out: Path, *, options: Mapping[str, str]) -> dict[str, Any]:
        names = sorted(path.name for path in Path(model).iterdir())
        out.mkdir()
        (out / options["name"]).write_text("\n".join(names))
        return {"files": len(names)}

    monkeypatch.setattr(EXPORTERS, "_entries", {"listing": write_listing})
    chosen = ("export", model, "out", "--format", "listing", "--option", "name=files.txt")
    written = run_json(*chosen)
    assert "config.json" in Path("out/files.txt").read_text().splitlines()
    assert written == {"out": "out", "files": len(list(Path(model).iterdir()))}
    output = run("export", model, "out", "--format", "listing", "--option", "name", code=2)
    assert "--option must be KEY=VALUE, got 'name'" in output.stderr
    output = run("export", model, "out", "--option", "name=files.txt", code=2)
    assert "--option applies to formats of plug-ins, got --format coca" in output.stderr
