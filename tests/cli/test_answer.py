"""Questions at the prompt: answered by a head, or in words where that is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from coca.core.errors import ConfigError
from coca.inference.loading import load
from coca.model.config import HeadConfig
from coca.model.pretrained import save_model
from tiny_answers import answering, words_head

Run = Callable[..., Result]
RunJson = Callable[..., Any]

ANSWERS = ("yes", "no", "red")


def write(folder: Path, *, pictures: int = 1) -> str:
    predictor = answering(words_head(ANSWERS, pictures=pictures))
    save_model(folder, predictor.model)
    predictor.processor.save(folder)
    return str(folder)


@pytest.fixture
def answerer(place: Path) -> str:
    return write(place / "answerer")


def test_a_head_chooses_among_its_answers(
    run_json: RunJson, answerer: str, pictures: list[str]
) -> None:
    told = run_json("answer", *pictures, "what is it?", "-m", answerer, "--top", "3")
    assert [entry["path"] for entry in told] == pictures
    wanted = load(answerer).answer(pictures, ["what is it?"] * 3)
    for entry, best in zip(told, wanted, strict=True):
        assert [it["answer"] for it in entry["answers"]] == [it.label for it in best]
        assert sum(it["probability"] for it in entry["answers"]) == pytest.approx(1)


def test_in_words_a_model_writes_what_follows_the_question(
    run_json: RunJson, model: str, answerer: str, pictures: list[str]
) -> None:
    words = ["--max-new-tokens", "3", "--top", "2", "--generate"]
    for name in (model, answerer):
        told = run_json("answer", pictures[0], "two dogs", "-m", name, *words)
        wanted = load(name).caption(
            pictures[0], prompt="two dogs", max_new_tokens=3, num_return_sequences=2
        )[0]
        said = [it["answer"] for it in told[0]["answers"]]
        assert said == [wanted.completion, wanted.others[0].completion]
        assert not said[0].startswith("two dogs")


@pytest.mark.parametrize("reads", [None, "image"])
def test_a_model_without_a_head_for_questions_is_refused_as_in_python(
    run: Run, place: Path, pictures: list[str], reads: str | None
) -> None:
    head = None if reads is None else HeadConfig(classes=ANSWERS, heads=2)
    predictor = answering(head)
    save_model(place / "other", predictor.model)
    predictor.processor.save(place / "other")
    with pytest.raises(ConfigError):
        load(place / "other").answer([pictures[0]], ["what is it?"])
    told = run("answer", pictures[0], "what is it?", "-m", "other", code=2)
    assert "--generate" in told.stderr
    assert not told.stdout


def test_two_pictures_are_judged_together_by_a_head_that_reads_pairs(
    run_json: RunJson, run: Run, place: Path, pictures: list[str]
) -> None:
    judge = write(place / "judge", pictures=2)
    (told,) = run_json("answer", *pictures[:2], "both are red", "-m", judge)
    assert told["path"] == ", ".join(pictures[:2])
    (best,) = load(judge).answer([pictures[:2]], ["both are red"])
    assert told["answers"][0]["answer"] == best[0].label
    odd = run("answer", *pictures, "both are red", "-m", judge, code=2)
    assert "reads 2 images at a time, and 3 are given" in " ".join(odd.stderr.split())


def test_an_unreadable_picture_is_told_and_does_not_stop_the_others(
    run_json: RunJson, answerer: str, place: Path, pictures: list[str]
) -> None:
    (place / "bad.png").write_bytes(b"no image")
    told = run_json("answer", "bad.png", pictures[0], "what?", "-m", answerer, code=1)
    assert "error" in told[0]
    assert told[1]["answers"]
    judge = write(place / "judge", pictures=2)
    told = run_json("answer", "bad.png", *pictures, "what?", "-m", judge, code=1)
    assert "error" in told[0]
    assert told[1]["answers"]


@pytest.mark.parametrize(
    ("question", "message"), [("photos/1.png", "is a file"), (" ", "question is empty")]
)
def test_a_question_that_is_none_is_a_wrong_call(
    run: Run, model: str, pictures: list[str], question: str, message: str
) -> None:
    assert message in run("answer", pictures[0], question, "-m", model, code=2).stderr


def test_answers_for_people_stand_beside_their_picture(
    run: Run, answerer: str, pictures: list[str]
) -> None:
    shown = run("answer", *pictures, "what is it?", "-m", answerer).stdout
    assert all(path in shown for path in pictures)
    assert any(f"{answer} " in shown for answer in ANSWERS)
