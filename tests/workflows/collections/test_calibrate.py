"""Calibration of a collection, with real images and a tiny model."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coca.core.errors import ArgumentError, ConfigError, SearchError
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.search.query.match import Calibration
from coca.search.search_options import CalibrationConfig
from coca.search.store import Collection
from coca.search.stores import open_collection
from coca.workflows.collections.calibrate import (
    ABSENT,
    LISTED,
    MIN_RECORDS,
    RANDOM,
    absent_texts,
    calibrate,
    needs_calibration,
    read_answers,
)
from coca.workflows.collections.collection_model import open_search
from coca.workflows.collections.index import index_images
from tiny_data import image_bytes
from tiny_model import write_model

COUNT = MIN_RECORDS
CONFIG = CalibrationConfig(false_alarms=0.25, max_seconds=1e6)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(write_model(tmp_path_factory.mktemp("model") / "model"), device="cpu")


def write(folder: Path, count: int, caption: str) -> None:
    folder.mkdir(exist_ok=True)
    for n in range(count):
        (folder / f"{n}.png").write_bytes(image_bytes(n))
        (folder / f"{n}.txt").write_text(f"{caption} {n}", encoding="utf-8")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> str:
    root = tmp_path_factory.mktemp("calibrate")
    write(root / "photos", COUNT, "my car")
    index_images([root / "photos"], predictor, uri=str(root / "all.db"))
    return str(root / "all.db")


@pytest.fixture
def collection(uri: str) -> Iterator[Collection]:
    with open_collection(uri) as opened:
        yield opened


def test_an_indexed_collection_is_calibrated_and_marks_hits(
    uri: str, predictor: Predictor, collection: Collection
) -> None:
    made = Calibration.of(collection.describe(), fingerprint=predictor.fingerprint)
    assert made is not None
    assert (made.records, made.matching, made.found) == (COUNT, 0, None)
    assert set(made.other) == {ABSENT, RANDOM}
    assert made.false_alarms == 0.05
    with open_search(uri, model=predictor) as engine:
        (hit,) = engine.search("my car 7", k=1)
        assert (hit.caption, hit.is_match, hit.query_matches) == ("my car 7", True, True)


def test_a_calibration_does_not_change_when_it_is_repeated(
    predictor: Predictor, collection: Collection
) -> None:
    one, two = (calibrate(collection, predictor, CONFIG) for _ in range(2))
    assert one == two == Calibration.of(collection.describe(), fingerprint=predictor.fingerprint)


def test_texts_with_a_word_of_the_captions_are_not_used(
    predictor: Predictor, tmp_path: Path
) -> None:
    # One fewer, so that only `calibrate` calibrates.
    write(tmp_path / "photos", COUNT - 1, "aurochs and tardigrades")
    uri = str(tmp_path / "a.db")
    index_images([tmp_path / "photos"], predictor, uri=uri)
    with open_collection(uri) as collection:
        made = calibrate(collection, predictor, CONFIG)
    assert {"aurochs", "tardigrade"} <= set(absent_texts())
    assert made.other[ABSENT] == len(absent_texts()) - 2


def test_only_much_changed_collections_are_calibrated_again(
    predictor: Predictor, tmp_path: Path
) -> None:
    uri = str(tmp_path / "a.db")
    write(tmp_path / "photos", MIN_RECORDS - 1, "a dog")
    index_images([tmp_path / "photos"], predictor, uri=uri)
    records = []
    for count in (MIN_RECORDS - 1, MIN_RECORDS, MIN_RECORDS + 2, MIN_RECORDS + 8):
        write(tmp_path / "photos", count, "a dog")
        index_images([tmp_path / "photos"], predictor, uri=uri)
        with open_collection(uri) as collection:
            made = Calibration.of(collection.info, fingerprint=predictor.fingerprint)
            records.append(made and made.records)
            assert not needs_calibration(collection)
    assert records == [None, MIN_RECORDS, MIN_RECORDS, MIN_RECORDS + 8]


def test_hidden_records_calibrate_nothing(predictor: Predictor, tmp_path: Path) -> None:
    uri = str(tmp_path / "a.db")
    write(tmp_path / "photos", MIN_RECORDS - 1, "a dog")
    index_images([tmp_path / "photos"], predictor, uri=uri)
    with open_collection(uri) as collection:
        collection.patch({id: {"hidden": True} for id in collection.ids()})
        with pytest.raises(SearchError, match="no records to calibrate with: all are hidden"):
            calibrate(collection, predictor, CONFIG)
    write(tmp_path / "photos", MIN_RECORDS + 1, "a dog")
    index_images([tmp_path / "photos"], predictor, uri=uri)
    with open_collection(uri) as collection:
        assert collection.count() == MIN_RECORDS + 1
        assert not collection.info.calibration
        assert not needs_calibration(collection)


def test_a_list_of_queries_replaces_the_texts_and_is_kept(
    predictor: Predictor, collection: Collection, tmp_path: Path
) -> None:
    id = min(collection.ids())
    path = collection.get([id])[id].path
    absent: dict[str, list[str]] = {f"nothing {n}": [] for n in range(8)}
    file = tmp_path / "queries.json"
    file.write_text(json.dumps(absent | {"my car": [id], "a car": [path]}), encoding="utf-8")
    made = calibrate(collection, predictor, CONFIG, answers=read_answers(file))
    assert (made.other, made.matching) == ({LISTED: 8}, 2)
    assert made.found in (0, 0.5, 1)
    collection.keep_calibration(dataclasses.replace(made, records=1).to_json())
    assert not needs_calibration(collection)
    with pytest.raises(ConfigError, match=r"gone\.png is neither the id nor the path of a record"):
        calibrate(collection, predictor, CONFIG, answers=absent | {"a car": ["gone.png"]})


@pytest.mark.parametrize("text", ["- a", "a: b", "a: [1]", "{"])
def test_a_file_without_queries_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "queries.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="must map each query to a list of ids or paths"):
        read_answers(file)


def test_another_model_and_a_wrong_rate_are_refused(
    predictor: Predictor, collection: Collection, tmp_path: Path
) -> None:
    other = load(write_model(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(SearchError, match="was filled by model"):
        calibrate(collection, other, CONFIG)
    with pytest.raises(ArgumentError, match=r"false_alarms must be .*0\.5\), got 1"):
        dataclasses.replace(CONFIG, false_alarms=1.0)
    with pytest.raises(SearchError, match=r"a false-alarm rate of 0\.001 needs at least 999"):
        calibrate(collection, predictor, dataclasses.replace(CONFIG, false_alarms=0.001))
