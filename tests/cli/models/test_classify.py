import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.predict.torch_loading import load_coca
from tiny_cli import Run, RunJson


def test_labels_of_files_and_of_repeated_options_are_joined(
    run: Run, run_json: RunJson, images: list[str], model: str
) -> None:
    Path("labels.txt").write_text("cat\n\nred, car\n", encoding="utf-8")
    repeated = ["--labels", "labels.txt", "--labels", "cat", "-l", "dog,bee"]
    (output,) = run_json("classify", images[0], *repeated, "-m", model)
    labels = sorted(one["label"] for one in output["predictions"])
    assert labels == ["bee", "cat", "dog", "red, car"]
    missing = run("classify", images[0], "--labels", "other.txt", "-m", model, code=2)
    assert "the file of labels other.txt does not exist" in missing.stderr


def test_prompts_change_what_is_compared(run_json: RunJson, model: str, images: list[str]) -> None:
    def output(prompts: str) -> Any:
        return run_json("classify", images[0], "-l", "cat,dog", "--prompts", prompts, "-m", model)[
            0
        ]["predictions"]

    assert output("plain") == output("{}")
    assert output("photo") != output("drawing") != output("a long {}")


def test_labels_may_be_compared_by_likelihood(
    run_json: RunJson, model: str, images: list[str]
) -> None:
    asked = ["classify", *images, "-l", "cat,dog,car", "-m", model]
    output = run_json(*asked, "--by", "likelihood")
    wanted = load_coca(model).classify(images, ["cat", "dog", "car"], by="likelihood")
    for entry, labels in zip(output, wanted, strict=True):
        assert [one["label"] for one in entry["predictions"]] == [one.label for one in labels]
    assert output != run_json(*asked)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "no label"),
        (["-l", "cat", "--prompts", "phot"], "not a prompt set"),
    ],
)
def test_classifying_without_good_labels_is_a_wrong_call(
    run: Run, model: str, images: list[str], options: list[str], sentence: str
) -> None:
    assert sentence in run("classify", images[0], "-m", model, *options, code=2).stderr


@pytest.mark.parametrize("command", [["embed"], ["caption"], ["classify", "-l", "cat,dog"]])
def test_a_bad_image_among_good_images_is_reported_and_the_rest_is_done(
    run: Run, run_json: RunJson, model: str, images: list[str], command: list[str]
) -> None:
    Path("photos/1a.png").write_bytes(Path(images[1]).read_bytes()[:60])
    Path("photos/text.jpg").write_text("no image", encoding="utf-8")
    output = run_json(*command, "photos", "photos/none.png", "-m", model, code=1)
    entries = output["items"] if command == ["embed"] else output
    bad = [entry for entry in entries if "error" in entry]
    assert [entry["path"] for entry in bad] == [
        "photos/1a.png",
        "photos/text.jpg",
        "photos/none.png",
    ]
    assert [entry["path"] for entry in entries if "error" not in entry] == images
    if command == ["embed"]:
        assert np.load("embeddings.npy").shape[0] == output["rows"] == 3
    error_lines = run(
        *command, "photos", "photos/none.png", "-m", model, code=1
    ).stderr.splitlines()
    assert sum(line.startswith("error: ") for line in error_lines) == 3


@pytest.mark.parametrize(
    "command", [["caption", "--decoding", "num_return_sequences=2"], ["classify", "-l", "cat,dog"]]
)
def test_the_result_is_written_to_a_file(
    run: Run, run_json: RunJson, model: str, images: list[str], command: list[str]
) -> None:
    call = [*command, *images, "-m", model]
    shown = run(*call, "none.png", "--out", "new/x.csv", code=1)
    assert shown.stdout == "6 rows for 3 files are in new/x.csv\n"
    assert "none.png" in shown.stderr
    with Path("new/x.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    value = "caption" if command[0] == "caption" else "label"
    entries = [
        (entry["path"], str(rank), one.get("text", one.get("label")))
        for entry in run_json(*call)
        for rank, one in enumerate(entry.get("captions") or entry["predictions"], start=1)
    ]
    assert [(row["path"], row["rank"], row[value]) for row in rows] == entries
    assert "must end in .csv" in run(*call, "--out", "x.txt", code=2).stderr
