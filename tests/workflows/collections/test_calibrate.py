"""Calibration of a collection, with real images, a tiny model and Milvus Lite."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from coca.core.errors import ArgumentError, SearchError
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.query.match import Calibration
from coca.search.query.match_config import CalibrationConfig
from coca.workflows.collections.calibrate import GENERAL, LEFT_OUT, OTHERS, calibrate
from coca.workflows.collections.collection_model import open_search
from coca.workflows.collections.index import index_images
from tiny_collection import fewer_general_queries
from tiny_data import image_bytes
from tiny_model import write_model

COUNT = 24
COLORS = ("red", "blue", "green", "black", "white", "brown")
SIZES = ("small", "large", "round", "square")
CONFIG = CalibrationConfig(false_alarms=0.25, texts=20)


@pytest.fixture(scope="module", autouse=True)
def general() -> Iterator[tuple[str, ...]]:
    with fewer_general_queries() as some:
        yield some


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(write_model(tmp_path_factory.mktemp("model") / "model"), device="cpu")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> str:
    """A collection with captions, and one of other images with other captions."""
    root = tmp_path_factory.mktemp("calibrate")
    for name, first, noun in (("pictures", 0, "car"), ("others", 100, "dog")):
        folder = root / name
        folder.mkdir()
        for n in range(COUNT):
            (folder / f"{n}.png").write_bytes(image_bytes(first + n))
            caption = f"a {COLORS[n % 6]} {SIZES[n // 6]} {noun}"
            (folder / f"{n}.txt").write_text(caption, encoding="utf-8")
        index_images([folder], predictor, uri=str(root / "all.db"), collection=name)
    return str(root / "all.db")


@pytest.fixture
def collection(uri: str) -> Iterator[Collection]:
    with Collection.open(uri) as opened:
        yield opened
        opened.keep_calibration("")


def test_a_calibrated_collection_marks_the_hits_of_later_searches(
    uri: str, predictor: Predictor, collection: Collection, general: tuple[str, ...]
) -> None:
    with Collection.open(uri, "others") as others:
        report = calibrate(collection, predictor, CONFIG, others=[others])
    made = report.calibration
    assert (report.captions, report.unreadable) == ("given", 0)
    assert (made.records, made.matching) == (COUNT, 20)
    assert made.other == {LEFT_OUT: 20, OTHERS: 20, GENERAL: len(general)}
    assert Calibration.of(collection.info, fingerprint=predictor.fingerprint) == made
    with open_search(uri, model=predictor) as engine:
        hits = engine.search("a red small car", k=COUNT, hybrid=False)
        assert {type(hit.match_probability) for hit in hits} == {float}
        assert [hit.is_match for hit in hits] == [
            (hit.match_probability or 0) > made.threshold for hit in hits
        ]
        assert {hit.is_match for hit in engine.search("a red small car", match=False)} == {None}
    with open_search(uri, model=predictor, in_memory=True) as engine:
        again = engine.search("a red small car", k=COUNT, hybrid=False)
        assert again[0].match_probability == pytest.approx(hits[0].match_probability, abs=1e-5)


def test_a_calibration_does_not_depend_on_the_batches(
    predictor: Predictor, collection: Collection
) -> None:
    other = Predictor(
        predictor.model, predictor.processor, fingerprint=predictor.fingerprint, batch_size=5
    )
    one, two = (calibrate(collection, model, CONFIG).calibration for model in (predictor, other))
    assert one.samples == two.samples
    assert one.other == two.other
    for name in ("cosine_weight", "pmi_weight", "bias", "threshold", "found"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-3, abs=1e-4)


def test_general_queries_with_a_word_of_the_captions_are_not_used(
    uri: str, predictor: Predictor, tmp_path: Path, general: tuple[str, ...]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(COUNT):
        (folder / f"{n}.png").write_bytes(image_bytes(n))
        caption = f"{COLORS[n % 6]} {SIZES[n // 6]} elephants"
        (folder / f"{n}.txt").write_text(caption, encoding="utf-8")
    index_images([folder], predictor, uri=uri, collection="elephants")
    with Collection.open(uri, "elephants") as collection:
        made = calibrate(collection, predictor, CONFIG).calibration
    assert "elephant" in general
    assert made.other[GENERAL] < len(general)


def test_without_captions_the_model_writes_them(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.png").write_bytes(image_bytes(n))
    uri = str(tmp_path / "bare.db")
    index_images([folder], predictor, uri=uri, captions=False)
    # A tiny model writes too few different captions for a calibration.
    with (
        Collection.open(uri) as collection,
        pytest.raises(SearchError, match="texts that match nothing and 4 that match"),
    ):
        calibrate(collection, predictor, CONFIG)


def test_another_model_and_a_wrong_rate_are_refused(
    predictor: Predictor, collection: Collection, tmp_path: Path
) -> None:
    other = load(write_model(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(SearchError, match="was filled by model"):
        calibrate(collection, other, CONFIG)
    with pytest.raises(ArgumentError, match=r"false_alarms must be .*\(0, 1\), got 1"):
        dataclasses.replace(CONFIG, false_alarms=1.0)
    with pytest.raises(SearchError, match=r"a false-alarm rate of 0\.001 needs at least 1998"):
        calibrate(collection, predictor, dataclasses.replace(CONFIG, false_alarms=0.001))
