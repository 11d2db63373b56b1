"""The drawing of searches at the head of README shows what the program finds today."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import coca
from coca.demo.emoji import emoji_samples
from coca.demo.run import RENDERED_PX, UNSEEN, write_photos
from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.query.query_terms import embed_queries
from coca.search.records import Hit, Record

ROOT = Path(__file__).parents[2]
SCRIPT, DRAWING = ROOT / "scripts" / "draw_searches.py", ROOT / "docs" / "search.png"
MARGIN = 0.02
"""Of cosines and fused scores between processors, and between versions of the image libraries."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_searches", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model() -> Predictor:
    return coca.load(device="cpu")


def hits(*names: str) -> list[Hit]:
    return [
        Hit(id=name, score=0.5, path=name, caption=name, metadata={}, fused_score=1 / place)
        for place, name in enumerate(names, 1)
    ]


def test_the_hits_that_are_drawn_are_in_the_file(script: ModuleType, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in ("one", "two")]
    for path in files:
        Image.new("RGB", (9, 9)).save(path)
    out = tmp_path / "drawn.png"
    rows = [("a query", hits(*map(str, files)))]
    script.write(out, rows, fingerprint="f", contenders=["one.png", "three.png"])
    assert script.read(out) == {
        "fingerprint": "f",
        "searches": {
            "a query": [
                {"file": "one.png", "score": 0.5, "fused_score": 1.0},
                {"file": "two.png", "score": 0.5, "fused_score": 0.5},
            ]
        },
        "contenders": ["one.png", "three.png"],
    }
    with Image.open(out) as drawn:
        assert drawn.height == script.ROW


def test_the_drawing_is_of_the_model_in_the_package(script: ModuleType, model: Predictor) -> None:
    assert script.read(DRAWING)["fingerprint"] == model.fingerprint


@pytest.fixture(scope="module")
def engine(
    script: ModuleType, model: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[coca.SearchEngine]:
    """The collection of the demo, where only images near a query are embedded.

    The others get a vector far from all queries: they are not among the first 64 by image, of
    which a search reads no more.
    """
    folder = tmp_path_factory.mktemp("pictures")
    images = {path.name: path.read_bytes() for path, _ in write_photos(folder / "photos")}
    names = dict.fromkeys(images, "")
    for sample in emoji_samples(UNSEEN, size_px=RENDERED_PX):
        file = f"{sample.key.split('/')[-1]}.png"
        images[file], names[file] = sample.image, sample.captions[0]
    near = script.read(DRAWING)["contenders"]
    embedded = dict(zip(near, model.embed_images([images[file] for file in near]), strict=True))
    captions = [name for name in names.values() if name]
    of_names = dict(zip(captions, model.embed_texts(captions), strict=True))
    far = -embed_queries(model.embed_texts, script.QUERIES).mean(axis=0)
    far /= np.linalg.norm(far)
    with Collection.open(
        str(folder / "pictures.db"),
        embed_dim=model.embed_dim,
        fingerprint=model.fingerprint,
        create=True,
    ) as collection:
        collection.upsert(
            Record(
                id=file,
                path=file,
                caption=name,
                vector=embedded.get(file, far),
                text_vector=of_names.get(name),
            )
            for file, name in names.items()
        )
        yield coca.SearchEngine(model, collection)


@pytest.mark.slow
def test_the_drawing_shows_the_hits_of_today(script: ModuleType, engine: coca.SearchEngine) -> None:
    drawn = script.read(DRAWING)["searches"]
    assert tuple(drawn) == script.QUERIES
    for query, expected in drawn.items():
        found = engine.search(query, k=2 * script.HITS)
        today = {Path(hit.path).name: hit for hit in found}
        last = found[script.HITS - 1].fused_score
        assert last is not None
        for hit in expected:
            now = today.get(hit["file"])
            stale = f"{query!r} no longer finds {hit['file']}: run {SCRIPT.name} again"
            assert now is not None, stale
            assert now.fused_score is not None
            # Hits of nearly equal scores may change places.
            assert now.fused_score > last - MARGIN, stale
            assert now.score == pytest.approx(hit["score"], abs=MARGIN), stale
            assert now.fused_score == pytest.approx(hit["fused_score"], abs=MARGIN), stale
