import json
import sys
from pathlib import Path

import numpy as np
import pytest

from coca.core.installation import pip_install
from coca.predict.torch_loading import load_coca
from tiny_cli import Run, RunJson
from tiny_video import video


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
    assert output["fingerprint"] == load_coca(model).fingerprint
    assert output["items"] == [{"path": path} for path in images] + [
        {"text": "a cat"},
        {"text": "a dog"},
    ]
    # One by one or in a batch is the same up to the order of additions.
    assert np.allclose(vectors[1], load_coca(model).embed_images([images[1]])[0], atol=1e-5)
    assert np.allclose(vectors[3:], load_coca(model).embed_texts(["a cat", "a dog"]), atol=1e-5)


def test_embedding_nothing_is_a_wrong_call(run: Run, model: str) -> None:
    assert "nothing to embed" in run("embed", "-m", model, code=2).stderr


def test_only_bad_images_leave_nothing_behind(run_json: RunJson, model: str) -> None:
    output = run_json("embed", "none.png", "-m", model, code=1)
    assert output["rows"] == 0
    assert output["out"] is None
    assert not Path("embeddings.npy").exists()


def test_a_table_has_the_path_or_text_of_each_vector(
    run_json: RunJson, run: Run, model: str, images: list[str]
) -> None:
    Path("photos/film.mp4").write_bytes(video())
    run_json("embed", "photos", "none.png", "-t", "a cat", "-o", "x.jsonl", "-m", model, code=1)
    rows = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [*images, "photos/film.mp4", None]
    assert [row["text"] for row in rows] == [None] * 4 + ["a cat"]
    vectors = np.array([row["vector"] for row in rows], np.float32)
    run("embed", "photos", "-t", "a cat", "-o", "x.npy", "-m", model)
    assert np.array_equal(vectors, np.load("x.npy"))


def test_a_file_of_another_kind_is_refused(run: Run, images: list[str]) -> None:
    stderr = run("embed", *images, "-o", "vectors", code=2).stderr
    assert "must end in .npy, .csv, .jsonl or .parquet, such as vectors.npy" in stderr


def test_the_precision_of_the_model_is_an_option(run: Run, model: str) -> None:
    embed = ("embed", "-t", "a cat", "-m", model, "-o")
    run(*embed, "whole.npy")
    run(*embed, "half.npy", "--device", "cpu", "--model-precision", "bf16")
    whole, half = (np.load(f"{name}.npy")[0] for name in ("whole", "half"))
    assert 0.99 < whole @ half < 1 - 1e-7


@pytest.mark.parametrize("name", ["openclip:coca_ViT-B-32/laion2b_s13b_b90k", "hf:some/model"])
def test_without_the_hub_package_the_command_that_brings_it_is_reported(
    run: Run, cwd: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cwd / "cache"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert pip_install("hub") in run("embed", "-t", "a", "-m", name, code=1).stderr
