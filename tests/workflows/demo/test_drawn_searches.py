"""The drawing of searches at the head of README shows what the program finds today."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.records import Hit

ROOT = Path(__file__).parents[3]
SCRIPT, DRAWING = ROOT / "scripts" / "draw_searches.py", ROOT / "docs" / "search.jpg"
MARGIN = 0.02
"""Of cosines between processors, and between versions of the image libraries."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_searches", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model() -> TorchPredictor:
    return load_coca(device="cpu")


def test_the_hits_that_are_drawn_are_in_the_file(script: ModuleType, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in ("one", "two")]
    for path in files:
        Image.new("RGB", (9, 9)).save(path)
    hits = [Hit(id=str(it), score=0.5, path=str(it), caption="", metadata={}) for it in files]
    out = tmp_path / "drawn.jpg"
    script.write(out, {"a query": hits}, fingerprint="f")
    assert script.read(out) == {
        "fingerprint": "f",
        "searches": {"a query": {"one.png": 0.5, "two.png": 0.5}},
    }
    with Image.open(out) as drawn:
        assert drawn.height == script.ROW


def test_the_drawing_is_of_the_model_in_the_package(
    script: ModuleType, model: TorchPredictor
) -> None:
    assert script.read(DRAWING)["fingerprint"] == model.fingerprint


@pytest.mark.slow
def test_the_drawing_shows_the_hits_of_today(
    script: ModuleType, model: TorchPredictor, tmp_path: Path
) -> None:
    drawn = script.read(DRAWING)["searches"]
    assert tuple(drawn) == script.QUERIES
    found = script.search(model, tmp_path, script.QUERIES, 2 * script.HITS)
    for (query, expected), hits in zip(drawn.items(), found, strict=True):
        today = {Path(hit.path).name: hit.score for hit in hits}
        last = hits[script.HITS - 1].score
        for name, score in expected.items():
            stale = f"{query!r} no longer finds {name}: run {SCRIPT.name} again"
            assert today.get(name) == pytest.approx(score, abs=MARGIN), stale
            # Hits of nearly equal scores may change places.
            assert today[name] > last - MARGIN, stale
