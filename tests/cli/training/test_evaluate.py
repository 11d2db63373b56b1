import json
import re
from pathlib import Path

import pytest

from coca.predict.torch_loading import load_coca
from tiny_cli import Run, RunJson
from tiny_video import video

DATA = ["data.kind=folder", "data.path=photos"]


@pytest.fixture
def samples(images: list[str]) -> str:
    """Images with captions and labels, and a task in a file."""
    for number, path in enumerate(images):
        words = {"caption": f"image {number}", "label": f"kind {number % 2}"}
        Path(path).with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
    Path("task.yaml").write_text(
        "task: retrieval\ndata: {kind: folder, path: photos}\n", encoding="utf-8"
    )
    return "task.yaml"


def test_a_file_may_hold_several_tasks_which_share_their_changes(
    run_json: RunJson, model: str, samples: str
) -> None:
    data = "data: {kind: folder, path: photos}"
    Path("suite.yaml").write_text(
        f"tasks:\n  - {{task: retrieval, {data}}}\n  - {{task: zero_shot, {data}}}\n",
        encoding="utf-8",
    )
    output = run_json("evaluate", model, "suite.yaml", "limit=2")
    assert [result["task"] for result in output] == ["retrieval", "zero_shot"]
    assert output[0]["metrics"]["chance_text_to_image_recall@1"] == 0.5
    assert output == run_json("evaluate", model, samples, "zero_shot", *DATA, "limit=2")


def test_scores_for_people_are_printed_next_to_chance_and_saved(
    run: Run, model: str, samples: str
) -> None:
    Path("photos/bad.png").write_bytes(b"")
    Path("photos/bad.json").write_text("{", encoding="utf-8")
    output = run("evaluate", model, samples, "--out", "scores")
    assert "retrieval on 3 samples of photos" in output.stdout
    assert "by chance" in output.stdout
    for name in ("report.json", "report.md", "report.html"):
        assert f"scores/{name}" in output.stdout
    assert "bad" in output.stderr
    kept = json.loads(Path("scores/report.json").read_text(encoding="utf-8"))
    assert kept["fingerprint"] == load_coca(model).fingerprint
    assert kept["tasks"][0]["metrics"]["text_to_image_recall@5"] == 1


def test_texts_find_videos_as_they_find_images(run_json: RunJson, model: str) -> None:
    Path("films").mkdir()
    for number in range(2):
        Path("films", f"v{number}.mp4").write_bytes(video(frames=8, colour=(90 * number, 9, 9)))
    rows = [f"ret{number},msr{number},v{number},film {number}" for number in range(2)]
    Path("1k-A.csv").write_text("\n".join(["key,vid_key,video_id,sentence", *rows]))
    data = ["data.kind=msrvtt", "data.path=1k-A.csv", "data.images=films", "data.frames=4"]
    for mode in ("mean", "flatten"):
        output = run_json("evaluate", model, "retrieval", *data, f"video={mode}")
        assert output["metrics"]["chance_text_to_image_recall@1"] == 0.5
        assert output["metrics"]["text_to_image_recall@5"] == 1


@pytest.mark.slow
def test_the_scores_of_another_model_are_compared(
    run: Run, run_json: RunJson, model: str, samples: str
) -> None:
    output = run_json("evaluate", model, samples, "--compare", "everyday")
    assert output["compare"]["everyday"] == run_json("evaluate", "everyday", samples)["metrics"]
    # A shipped model is called by its name, in any folder.
    report = Path("runs/evaluate/everyday/report.md").read_text()
    assert report.startswith("# Scores of everyday\n")
    table = run("evaluate", model, samples, "--compare", "everyday").stdout
    assert any(
        {"this model", "everyday"} <= {*re.split(r"\s{2,}", it)} for it in table.splitlines()
    )


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        (["retrievall"], "did you mean 'retrieval'?"),
        (["none.yaml"], "none.yaml cannot be read"),
        (["retrieval"], "data is missing"),
        (["limit=1"], "no task is named"),
        ([], "no task is given, such as: coca evaluate"),
        (["retrieval", "data.path=[a,", "b]"], "quote an override with spaces, such as 'data.path"),
    ],
)
def test_a_task_that_is_none_is_a_wrong_call(
    run: Run, model: str, samples: str, tasks: list[str], sentence: str
) -> None:
    assert sentence in run("evaluate", model, *tasks, code=2).stderr
