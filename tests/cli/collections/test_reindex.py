from pathlib import Path
from typing import Any

import pytest

from tiny_cli import Run, RunJson
from tiny_model import write_model


def test_another_model_takes_over_when_all_images_are_embedded(
    run: Run, run_json: RunJson, filled: Any, images: list[str], tmp_path: Path, model: str
) -> None:
    newer = str(write_model(tmp_path / "newer", seed=1))
    assert "contains the vectors of" in run("reindex", "-m", model, code=2).stderr
    kept = Path(images[0]).read_bytes()
    Path(images[0]).unlink()
    half = run_json("reindex", "-m", newer, code=1)
    assert (half["embedded"], half["kept"], half["promoted"]) == (2, 0, False)
    assert run_json("collection", "info")["model"].startswith(model)
    Path(images[0]).write_bytes(kept)
    done = run_json("reindex", "-m", newer)
    assert (done["embedded"], done["kept"], done["lost"]) == (1, 2, [])
    # `coca search` now loads the newer model by itself.
    assert run_json("collection", "info")["model"].startswith(newer)
    assert run_json("search", "-i", images[0], "-k", "1")[0]["score"] == pytest.approx(1, abs=1e-3)


def test_a_new_model_may_have_other_dimensions(
    run_json: RunJson, images: list[str], tmp_path: Path, model: str
) -> None:
    run_json("index", "photos", "-m", model, "--dimensions", "2")
    newer = str(write_model(tmp_path / "newer", seed=1))
    run_json("reindex", "-m", newer, "--dimensions", "4")
    assert run_json("collection", "info")["embed_dim"] == 4
    # The vectors of one model may get longer as well.
    run_json("reindex", "-m", newer, "--dimensions", "8")
    assert run_json("collection", "info")["embed_dim"] == 8
    assert len(run_json("search", "-i", images[0])) == 3
