from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from coca.inference.loading import load

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_embedded_images_and_texts_are_unit_vectors_in_their_order(
    run_json: RunJson, model: str, images: list[str]
) -> None:
    output = run_json(
        "embed", *images, "--text", "a cat", "-t", "a dog", "-o", "x.npy", "-m", model
    )
    vectors = np.load("x.npy")
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, 24) == (output["rows"], output["dim"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert output["out"] == "x.npy"
    assert output["fingerprint"] == load(model).fingerprint
    assert output["items"] == [{"path": path} for path in images] + [
        {"text": "a cat"},
        {"text": "a dog"},
    ]
    # One by one or in a batch is the same up to the order of additions.
    assert np.allclose(vectors[1], load(model).embed_images([images[1]])[0], atol=1e-5)
    assert np.allclose(vectors[3:], load(model).embed_texts(["a cat", "a dog"]), atol=1e-5)


def test_embedding_nothing_is_a_wrong_call(run: Run, model: str) -> None:
    assert "nothing to embed" in run("embed", "-m", model, code=2).stderr


def test_embed_reports_what_it_made_and_where(run: Run, model: str, images: list[str]) -> None:
    assert "3 vectors of 24 numbers are in embeddings.npy" in run(
        "embed", *images, "-m", model
    ).stdout.replace("\n", " ")


def test_probabilities_of_labels_sum_to_one_best_first(
    run_json: RunJson, model: str, images: list[str]
) -> None:
    output = run_json("classify", *images, "--labels", "cat, dog,car,", "-m", model)
    assert [entry["path"] for entry in output] == images
    for entry in output:
        chances = [one["probability"] for one in entry["predictions"]]
        assert {one["label"] for one in entry["predictions"]} == {"cat", "dog", "car"}
        assert sum(chances) == pytest.approx(1)
        assert chances == sorted(chances, reverse=True)


def test_labels_that_name_a_file_are_read_from_it(
    run: Run, run_json: RunJson, images: list[str], model: str
) -> None:
    Path("labels.txt").write_text("cat\n\nred, car\n", encoding="utf-8")
    (output,) = run_json("classify", images[0], "--labels", "labels.txt", "-m", model)
    assert {one["label"] for one in output["predictions"]} == {"cat", "red, car"}
    missing = run("classify", images[0], "--labels", "other.txt", "-m", model, code=2)
    assert "there is no file other.txt" in missing.stderr


def test_labels_come_from_a_file_as_well(run_json: RunJson, model: str, images: list[str]) -> None:
    Path("labels.txt").write_text("cat\n\ndog\n", encoding="utf-8")
    asked = ["classify", images[0], "-l", "cat,car", "--labels-file", "labels.txt", "-m", model]
    output = run_json(*asked)
    assert {one["label"] for one in output[0]["predictions"]} == {"cat", "dog", "car"}
    assert len(run_json(*asked, "--top", "1")[0]["predictions"]) == 1


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
    wanted = load(model).classify(images, ["cat", "dog", "car"], by="likelihood")
    for entry, labels in zip(output, wanted, strict=True):
        assert [one["label"] for one in entry["predictions"]] == [one.label for one in labels]
    assert output != run_json(*asked)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "no label"),
        (["--labels-file", "none.txt"], "none.txt cannot be read"),
        (["-l", "cat", "--prompts", "phot"], "no prompt set"),
    ],
)
def test_classifying_without_good_labels_is_a_wrong_call(
    run: Run, model: str, images: list[str], options: list[str], sentence: str
) -> None:
    assert sentence in run("classify", images[0], "-m", model, *options, code=2).stderr


def test_labels_for_people_are_the_best_few(run: Run, model: str, images: list[str]) -> None:
    shown = run("classify", images[0], "-l", "a,b,c,d,e", "-m", model).stdout
    assert shown.count("%") == 3


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


def test_only_bad_images_leave_nothing_behind(run_json: RunJson, model: str) -> None:
    output = run_json("embed", "none.png", "-m", model, code=1)
    assert output["rows"] == 0
    assert output["out"] is None
    assert not Path("embeddings.npy").exists()


def test_a_preset_is_described_without_its_weights(run_json: RunJson) -> None:
    output = run_json("info", "coca_base")
    counts = output["parameters"]
    assert counts["total_without_poolers"] == pytest.approx(382.8e6, abs=0.05e6)
    parts = counts.keys() - {"total", "total_without_poolers"}
    assert sum(counts[part] for part in parts) == counts["total"]
    assert output["config"]["image"]["patch_size"] == 18


def test_a_folder_and_a_run_are_described_alike(
    run: Run, run_json: RunJson, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run_json("info", model)
    assert output["config"]["embed_dim"] == 24
    assert run_json("info", str(Path(model).parent)) == output
    monkeypatch.setenv("COCA_MODEL", model)
    assert run_json("info") == output
    assert f"{output['parameters']['total']:,}" in run("info", model).stdout


def test_an_unknown_model_is_reported_with_the_nearest_preset(run: Run) -> None:
    assert "did you mean 'coca_base'?" in run("info", "coca_bass", code=2).stderr


def test_a_folder_without_a_model_is_a_failure(run: Run, place: Path) -> None:
    assert "no model folder" in run("info", str(place), code=1).stderr
    assert "no model folder" in run("embed", "-t", "x", "-m", str(place), code=1).stderr
