import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.metrics.captioning import caption_scores
from coca.metrics.ptb import words
from coca.model.decoding import Decoding, DecodingOptions
from coca.tasks import TASKS, TaskConfig, TaskResult
from tiny_data import CAPTIONS, picture
from tiny_folder import write_folder

CAPTIONING = TASKS.get("captioning")

# One to three captions a picture, all different.
SAMPLES = [
    Sample(
        f"s{number:02d}",
        picture(number),
        captions=tuple(
            f"{CAPTIONS[(number + turn) % 3]} number {number}" for turn in range(1 + number % 3)
        ),
    )
    for number in range(13)
]
IMAGES = [sample.image for sample in SAMPLES]

GREEDY = Decoding(num_beams=1)


def solve(
    predictor: Predictor, root: Path, samples: list[Sample] = SAMPLES, **settings: Any
) -> TaskResult:
    config = TaskConfig(task="captioning", data=write_folder(root, samples), decoding=GREEDY)
    return CAPTIONING(predictor, dataclasses.replace(config, **settings))


def scored(said: list[str], samples: list[Sample] = SAMPLES) -> dict[str, float]:
    references = [[words(text) for text in sample.captions] for sample in samples]
    return caption_scores([words(text) for text in said], references)


def without_chance(result: TaskResult) -> dict[str, float]:
    return {name: it for name, it in result.metrics.items() if not name.startswith("chance_")}


@pytest.fixture
def perfect(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A predictor that says a picture's first caption."""
    captions = {sample.image: sample.captions[0] for sample in SAMPLES}
    one = predictor.caption(picture(0), num_beams=1)[0]

    def caption(images: list[bytes], **options: Any) -> list[Any]:
        return [dataclasses.replace(one, text=captions[image]) for image in images]

    monkeypatch.setattr(predictor, "caption", caption)
    return predictor


def test_captions_are_scored_against_all_that_people_wrote(
    predictor: Predictor, tmp_path: Path
) -> None:
    said = [caption.text for caption in predictor.caption(IMAGES, num_beams=1)]
    result = solve(predictor, tmp_path)
    assert without_chance(result) == pytest.approx(scored(said))
    assert result.samples == 13


def test_options_of_decoding_and_the_prompt_reach_the_model(
    predictor: Predictor, tmp_path: Path
) -> None:
    options: DecodingOptions = {"num_beams": 3, "max_words": 4, "no_repeat_ngram": 1}
    said = [caption.text for caption in predictor.caption(IMAGES, prompt="a", **options)]
    result = solve(predictor, tmp_path, prompt="a", decoding=Decoding(**options))
    assert without_chance(result) == pytest.approx(scored(said))
    assert all(example["said"].startswith("a") for example in result.details["examples"])


def test_chance_is_the_score_of_the_same_captions_on_other_pictures(
    predictor: Predictor, tmp_path: Path
) -> None:
    said = [caption.text for caption in predictor.caption(IMAGES, num_beams=1)]
    metrics = solve(predictor, tmp_path).metrics
    moved = scored(said[6:] + said[:6])
    assert {name: metrics[f"chance_{name}"] for name in moved} == pytest.approx(moved)


def test_right_captions_score_above_chance(perfect: Predictor, tmp_path: Path) -> None:
    metrics = solve(perfect, tmp_path).metrics
    assert all(metrics[name] > metrics[f"chance_{name}"] for name in scored(["a"] * 13))
    assert metrics["cider"] > 2 * metrics["chance_cider"]
    assert metrics["bleu@1"] == pytest.approx(1)


def test_a_single_picture_has_no_chance_to_compare_with(
    predictor: Predictor, tmp_path: Path
) -> None:
    result = solve(predictor, tmp_path, limit=1)
    assert result.samples == 1
    assert without_chance(result) == result.metrics


def test_a_report_gets_the_best_and_the_worst_captions(perfect: Predictor, tmp_path: Path) -> None:
    wrong = [
        dataclasses.replace(it, captions=("nothing of this kind",)) if row in (3, 8) else it
        for row, it in enumerate(SAMPLES)
    ]
    details = json.loads(json.dumps(solve(perfect, tmp_path, wrong).details))
    examples = details["examples"]
    assert [example["key"] for example in examples[-2:]] == ["s03", "s08"]
    assert examples[-1]["cider"] == 0
    assert examples[-1]["captions"] == ["nothing of this kind"]
    scores = [example["cider"] for example in examples]
    assert scores == sorted(scores, reverse=True)
    assert len(examples) == 10
    assert len(solve(perfect, tmp_path, wrong, limit=4).details["examples"]) == 4
    assert details["different"] == 13


def test_a_picture_without_a_caption_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captioning needs one for each") as it:
        solve(predictor, tmp_path, [*SAMPLES, Sample("silent", picture(99))])
    assert it.value.reason == "no_caption"
