"""Questions at the prompt: answered by a head, or by generation with `--generate`."""

from pathlib import Path

import pytest

from coca.core.errors import ConfigError
from coca.model.coca_config import HeadConfig
from coca.model.pretrained import save_model
from coca.predict.torch_loading import load_coca
from tiny_cli import Run, RunJson
from tiny_model import answering, text_head

ANSWERS = ("yes", "no", "red")


def write(folder: Path, *, images_per_sample: int = 1) -> str:
    predictor = answering(text_head(ANSWERS, images_per_sample=images_per_sample))
    save_model(folder, predictor.model)
    predictor.processor.save(folder)
    return str(folder)


@pytest.fixture
def answerer(cwd: Path) -> str:
    return write(cwd / "answerer")


def test_a_head_chooses_among_its_answers(
    run_json: RunJson, answerer: str, images: list[str]
) -> None:
    output = run_json("answer", *images, "what is it?", "-m", answerer, "--top", "3")
    assert [entry["path"] for entry in output] == images
    wanted = load_coca(answerer).answer(images, ["what is it?"] * 3)
    for entry, best in zip(output, wanted, strict=True):
        assert [it["answer"] for it in entry["answers"]] == [it.label for it in best]
        assert sum(it["probability"] for it in entry["answers"]) == pytest.approx(1)


def test_generation_continues_the_question(
    run_json: RunJson, model: str, answerer: str, images: list[str]
) -> None:
    words = ["--top", "2", "--generate"]
    for name in (model, answerer):
        output = run_json("answer", images[0], "two dogs", "-m", name, *words)
        wanted = load_coca(name).caption(images[0], prompt="two dogs", num_return_sequences=2)[0]
        printed = [it["answer"] for it in output[0]["answers"]]
        assert printed == [wanted.completion, wanted.others[0].completion]
        assert not printed[0].startswith("two dogs")


@pytest.mark.parametrize("reads", [None, "image"])
def test_a_model_without_a_head_for_questions_is_refused_as_in_python(
    run: Run, cwd: Path, images: list[str], reads: str | None
) -> None:
    head = None if reads is None else HeadConfig(classes=ANSWERS, heads=2)
    predictor = answering(head)
    save_model(cwd / "other", predictor.model)
    predictor.processor.save(cwd / "other")
    with pytest.raises(ConfigError):
        load_coca(cwd / "other").answer([images[0]], ["what is it?"])
    output = run("answer", images[0], "what is it?", "-m", "other", code=2)
    assert "--generate" in output.stderr
    assert not output.stdout


def test_two_images_are_judged_together_by_a_head_that_reads_pairs(
    run_json: RunJson, run: Run, cwd: Path, images: list[str]
) -> None:
    judge = write(cwd / "judge", images_per_sample=2)
    (output,) = run_json("answer", *images[:2], "both are red", "-m", judge)
    assert output["path"] == ", ".join(images[:2])
    (best,) = load_coca(judge).answer([images[:2]], ["both are red"])
    assert output["answers"][0]["answer"] == best[0].label
    odd = run("answer", *images, "both are red", "-m", judge, code=2)
    assert "reads 2 images at a time, and 3 are given" in " ".join(odd.stderr.split())


def test_an_unreadable_image_is_reported_and_does_not_stop_the_others(
    run_json: RunJson, answerer: str, cwd: Path, images: list[str]
) -> None:
    (cwd / "bad.png").write_bytes(b"no image")
    output = run_json("answer", "bad.png", images[0], "what?", "-m", answerer, code=1)
    assert "error" in output[0]
    assert output[1]["answers"]
    judge = write(cwd / "judge", images_per_sample=2)
    output = run_json("answer", "bad.png", *images, "what?", "-m", judge, code=1)
    assert "error" in output[0]
    assert output[1]["answers"]


@pytest.mark.parametrize(
    ("question", "message"), [("photos/1.png", "is a file"), (" ", "question is empty")]
)
def test_a_question_that_is_none_is_a_wrong_call(
    run: Run, model: str, images: list[str], question: str, message: str
) -> None:
    assert message in run("answer", images[0], question, "-m", model, code=2).stderr
