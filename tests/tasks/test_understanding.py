"""Questions are answered by a head or by generation, and scored as officially."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.metrics.answers import vqa_accuracy
from coca.metrics.intervals import grouped_interval
from coca.model.coca_config import HeadConfig
from coca.model.generation.generation_config import GenerationConfig
from coca.model.heads import head_of
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.task import check_task
from tiny_datasets import ANSWERS, lines, write_questions, write_vqa
from tiny_model import answering, text_head

GREEDY = GenerationConfig(num_beams=1, max_new_tokens=4)


@pytest.fixture(scope="module")
def predictor() -> TorchPredictor:
    return answering(text_head(ANSWERS))


def run(predictor: TorchPredictor, config: TaskConfig) -> TaskResult:
    check_task(predictor, config)
    return TASKS.get("vqa")(predictor, config)


def undecide(predictor: TorchPredictor, samples: Sequence[Sample]) -> None:
    """Make each answer as likely as any other on average, so that not one is given always."""
    logits = predictor.head_logits([it.image for it in samples], [it.text for it in samples])
    with torch.no_grad():
        head_of(predictor.model).linear.bias.sub_(torch.from_numpy(logits.mean(axis=0)))


def test_the_score_is_the_official_score_of_the_answers_of_the_head(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = write_vqa(tmp_path)
    source = open_source(data)
    samples = [source.read(row) for row in range(len(source))]
    undecide(predictor, samples)
    answered = [
        best[0].label
        for best in predictor.answer([it.image for it in samples], [it.text for it in samples])
    ]
    assert len({*answered}) > 1
    each = vqa_accuracy(answered, [it.answers for it in samples])
    result = run(predictor, TaskConfig(task="vqa", data=data))
    assert result.metrics["accuracy"] == pytest.approx(float(each.mean()))
    assert result.metrics["accuracy_yes/no"] == pytest.approx(float(each[[0, 1, 4, 5]].mean()))
    assert [it["answer"] for it in result.details["results"]] == answered
    assert [it["question_id"] for it in result.details["results"]] == list(range(8))
    assert (result.samples, result.headline) == (8, ("accuracy",))
    # Questions about the same image are one cluster.
    photos = [sample.image for sample in samples]
    assert len({*photos}) < len(photos)
    assert result.intervals == {"accuracy": grouped_interval(each, photos)}


def test_baselines_come_from_the_questions_of_the_reference(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = write_vqa(tmp_path / "val")
    known = write_questions(tmp_path / "train")
    answers = {"what is 3?": "2", "what is it?": "red", "what is so?": "red"}
    rows = [{"image": "0.png", "question": it, "answer": answers[it]} for it in answers]
    (tmp_path / "train" / "questions.jsonl").write_text(lines(rows))
    result = run(predictor, TaskConfig(task="vqa", data=data, reference=known))
    # Two of eight questions are answered "red" by seven people; so is one more the blind guess.
    assert result.metrics["majority_accuracy"] == pytest.approx(2 / 8)
    assert result.metrics["blind_accuracy"] == pytest.approx(3 / 8)
    # Each of the four answers is right twice, and worth nothing elsewhere.
    assert result.metrics["chance_accuracy"] == pytest.approx(1 / 4)
    assert result.metrics["reachable"] == 1


def test_an_answer_that_is_not_in_the_list_cannot_be_reached(tmp_path: Path) -> None:
    data = write_vqa(tmp_path)
    result = run(answering(text_head(("yes", "no"))), TaskConfig(task="vqa", data=data))
    assert result.metrics["reachable"] == pytest.approx(0.5)


def test_a_generated_answer_is_the_completion_of_the_question(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = write_questions(tmp_path).replace(templates=("q: {}",))
    source = open_source(data)
    sample = source.read(2)
    caption = predictor.caption(sample.image, prompt="q: what is 2", num_beams=1, max_new_tokens=4)
    config = TaskConfig(task="vqa", data=data, answers="generation", decoding=GREEDY)
    result = run(answering(None), config)
    assert result.details["results"][2]["answer"] == caption[0].completion
    assert caption[0].text.startswith("q: what is 2")
    assert {"reachable", "chance_accuracy"}.isdisjoint(result.metrics)


def always(answer: str) -> TorchPredictor:
    """A model that gives one answer to every question."""
    predictor = answering(text_head(ANSWERS))
    with torch.no_grad():
        head_of(predictor.model).linear.bias[ANSWERS.index(answer)] += 1000
    return predictor


def test_one_person_s_answer_counts_in_full(tmp_path: Path) -> None:
    result = run(always("red"), TaskConfig(task="vqa", data=write_questions(tmp_path)))
    assert result.metrics["accuracy"] == pytest.approx(1 / 4)
    assert result.details["most_said"] == [{"answer": "red", "times": 8, "accuracy": 0.25}]


def test_a_question_without_its_image_is_left_out_and_named(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = write_vqa(tmp_path)
    (tmp_path / "val2014" / f"COCO_val2014_{1:012d}.jpg").unlink()
    result = run(predictor, TaskConfig(task="vqa", data=data))
    assert result.samples == 6
    assert [text.partition(":")[0] for text in result.bad] == ["2", "3"]


def test_a_report_gets_images_of_right_and_wrong_answers(tmp_path: Path) -> None:
    result = run(always("red"), TaskConfig(task="vqa", data=write_vqa(tmp_path)))
    right, wrong = result.report_samples.rows
    assert (right.heading, wrong.heading) == ("Correct", "Wrong")
    assert right.examples[0].lines[:2] == ("what is 2?", "predicted: red")
    assert right.examples[0].image is not None


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "no head that answers"),
        (HeadConfig(classes=ANSWERS, heads=2), "reads image of 1 images"),
        (text_head(ANSWERS, images_per_sample=2), "reads text of 2 images"),
    ],
)
def test_a_head_that_does_not_fit_is_reported_before_any_work(
    head: HeadConfig | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_task(answering(head), TaskConfig(task="vqa", data=write_vqa(tmp_path)))


def test_questions_without_answers_cannot_be_scored(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = write_vqa(tmp_path)
    secret = data.replace(path=data.paths[0])
    with pytest.raises(DataError, match=r"8 questions .* have no answer"):
        check_task(predictor, TaskConfig(task="vqa", data=secret))
    with pytest.raises(DataError, match="a reference must"):
        check_task(predictor, TaskConfig(task="vqa", data=data, reference=secret))


def test_samples_of_which_nothing_is_asked_are_reported(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = write_vqa(tmp_path)
    path = Path(data.paths[0])
    path.write_text(path.read_text().replace("what is 1?", " "))
    with pytest.raises(DataError, match=r"1 samples .* have no text"):
        check_task(predictor, TaskConfig(task="vqa", data=data))
