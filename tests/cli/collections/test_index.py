from pathlib import Path
from typing import Any

import pytest

from tiny_cli import Run, RunJson


def test_indexing_again_changes_nothing_and_prune_removes_what_is_gone(
    run: Run, run_json: RunJson, filled: Any, model: str, images: list[str]
) -> None:
    assert run_json("index", "photos", "-m", model)["unchanged"] == 3
    Path(images[2]).unlink()
    Path(images[1]).rename("photos/moved.png")
    # The moved file is found again, and is not missing.
    printed = run("index", "photos", "-m", model).stdout
    assert "1 missing" in printed
    assert "remove the 1 images whose files are missing: coca index photos --prune" in printed
    assert run_json("index", "photos", "-m", model, "--prune")["removed"] == 1
    printed = run("index", "photos", "-m", model).stdout
    assert "2 unchanged: 2 images are in collection 'pictures' of coca.db" in printed
    assert "coca search 'red car'" in printed


def test_later_runs_keep_the_dimensions_of_the_collection(
    run: Run, run_json: RunJson, model: str, images: list[str]
) -> None:
    form = ["--dimensions", "2"]
    assert run_json("index", "photos", "-m", model, *form)["added"] == 3
    for again in ([], form):
        assert run_json("index", "photos", "-m", model, *again)["unchanged"] == 3
    assert run_json("collection", "info")["embed_dim"] == 2
    assert len(run_json("search", "x")) == 3
    output = run("index", "photos", "-m", model, "--dimensions", "4", code=1).stderr
    assert "has vectors of 2 numbers of this model, and not of 4" in output.replace("\n", " ")
    output = run("index", "photos", "-m", model, "-c", "b", "--dimensions", "25", code=2).stderr
    assert "dimensions must be in [1, 24], got 25" in output.replace("\n", " ")


def test_a_bad_image_is_reported_and_the_rest_is_indexed(
    run: Run, run_json: RunJson, model: str, images: list[str]
) -> None:
    Path("photos/text.jpg").write_text("no image", encoding="utf-8")
    Path("photos/a.xcf").touch()
    output = run_json("index", "photos", "-m", model, "--uri", "other.db")
    assert (output["count"], output["skipped"]) == (3, {".xcf": 1})
    (bad,) = output["bad"]
    assert bad["path"].endswith("text.jpg")
    assert bad["reason"] == "not_an_image"
    for n in range(20):
        Path(f"photos/bad{n}.jpg").write_text("no image", encoding="utf-8")
    many = run("index", "photos", "-m", model, "--uri", "other.db").stderr
    assert many.count("is not a JPEG") == 20
    assert "1 more are bad: --json and --bad-list FILE list all" in many
    alone = run("index", "photos/text.jpg", "-m", model, code=1)
    assert "text.jpg" in alone.stderr
    assert "1 bad" in alone.stdout
    skipped = run("index", "photos", "-m", model).stderr
    assert "warning: skipped 1 .xcf: images of other formats" in skipped


def test_a_tar_that_cannot_be_read_is_reported_by_the_exit_code_and_the_rest_is_indexed(
    run: Run, model: str, images: list[str]
) -> None:
    Path("bad.tar").write_bytes(b"no tar")
    output = run("index", "photos", "bad.tar", "-m", model, "--no-captions", code=1)
    assert "3 added, 1 bad: 3 images are in collection" in output.stdout
    assert "bad.tar is truncated, damaged or not a plain tar" in output.stderr


def test_unindexable_sources_are_reported_before_the_model_is_loaded(run: Run, cwd: Path) -> None:
    Path("table.json").write_text("[]")
    output = run("index", "table.json", "-m", "absent", code=2).stderr
    assert output.startswith("error: table.json cannot be indexed: a manifest has one JSON object")
    assert "nowhere does not exist" in run("index", "nowhere", code=1).stderr


def test_a_folder_without_images_is_an_error_unless_all_were_removed(
    run: Run, run_json: RunJson, model: str, filled: Any, images: list[str]
) -> None:
    Path("empty").mkdir()
    output = run("index", "empty", "-m", "absent", "--uri", "new.db", code=1).stderr
    assert output.startswith("error: there is nothing to index in empty: no image (.avif")
    assert not Path("new.db").exists()
    for image_file in images:
        Path(image_file).unlink()
    # Or its drive is not mounted.
    output = run("index", "photos", "-m", model, "--prune", code=1).stderr
    assert output.endswith("add --yes to remove its records if its drive is mounted\n")
    output = run_json("index", "photos", "-m", model, "--prune", "--yes")
    assert (output["removed"], output["count"]) == (3, 0)
    for alone in (["--yes"], ["--yes", "--watch"]):
        assert "--yes needs --prune" in run("index", "photos", *alone, code=2).stderr


def test_a_video_is_indexed_by_frames_and_found_as_one_album(
    run_json: RunJson, model: str, cwd: Path
) -> None:
    pytest.importorskip("av")
    from tiny_video import video

    Path("clips").mkdir()
    Path("clips/a.mp4").write_bytes(video())
    Path("clips/broken.mp4").write_bytes(b"no film")
    output = run_json("index", "clips", "-m", model, "--frame-interval", "0.5", "--no-captions")
    assert output["added"] == output["count"] == 4
    assert [bad["reason"] for bad in output["bad"]] == ["not_a_video"]
    paths = {hit["path"] for hit in run_json("search", "x")}
    assert str(Path("clips/a.mp4").absolute()) + "#t=1.52" in paths
    for settled in ("updated", "unchanged"):
        # Captions are made up for, once.
        assert run_json("index", "clips", "-m", model, "--frame-interval", "0.5")[settled] == 4


def test_an_impossible_name_is_reported_before_a_model_is_loaded(
    run: Run, images: list[str]
) -> None:
    output = run("index", "photos", "-m", "no-such-model", "--collection", "a-b", code=2).stderr
    assert "cannot name a collection" in output
    assert not Path("coca.db").exists()


def test_a_shipped_model_is_refused_without_loading_it(
    run: Run, model: str, images: list[str]
) -> None:
    run("index", "photos", "-m", model)
    output = run("index", "photos", "-m", "everyday", code=1).stderr
    assert "was filled by model" in output.replace("\n", " ")
