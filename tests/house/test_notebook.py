"""`examples/getting_started.ipynb` runs, shows images, and stays small.

With COCA_WRITE_OUTPUTS=1, its outputs are written again. No Jupyter is needed.
"""

import ast
import base64
import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from PIL import Image

FILE = Path(__file__).parents[2] / "examples" / "getting_started.ipynb"
Output: TypeAlias = dict[str, Any]


def run(notebook: dict[str, Any]) -> list[list[Output]]:
    """Return the outputs of each code cell: printed text, and the value of its last expression."""
    names: dict[str, Any] = {}
    return [_run_cell("".join(cell["source"]), names) for cell in code_cells(notebook)]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _run_cell(source: str, names: dict[str, Any]) -> list[Output]:
    body = ast.parse(source)
    last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(body, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[Output] = []
    if text := printed.getvalue():
        lines = text.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        shown: dict[str, Any] = {"text/plain": [repr(value)]}
        if hasattr(value, "_repr_png_"):
            png = base64.b64encode(value._repr_png_()).decode()
            shown = {"image/png": png, "text/plain": ["<an image>"]}
        outputs.append({"data": shown, "metadata": {}, "output_type": "display_data"})
    return outputs


@pytest.mark.slow
def test_the_notebook_runs_and_its_outputs_are_of_the_stored_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FILE.stat().st_size < 300_000
    content = json.loads(FILE.read_text(encoding="utf-8"))
    stored = [cell["outputs"] for cell in code_cells(content)]
    monkeypatch.chdir(tmp_path)
    outputs = run(content)
    if os.environ.get("COCA_WRITE_OUTPUTS"):
        for cell, shown in zip(code_cells(content), outputs, strict=True):
            cell["outputs"] = shown
        FILE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def kinds(shown: list[list[Output]]) -> list[list[list[str]]]:
        return [[sorted(one.get("data", one)) for one in cell] for cell in shown]

    assert kinds(outputs) == kinds(stored)
    images = [
        Image.open(io.BytesIO(base64.b64decode(one["data"]["image/png"])))
        for cell in outputs
        for one in cell
        if "data" in one
    ]
    assert len(images) >= 4
    assert all(image.width > image.height for image in images)
    assert {"name": "stdout", "output_type": "stream", "text": ["200 images added\n"]} in outputs[1]
