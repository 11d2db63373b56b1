import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coca.core.config.frozen_config import load_config
from coca.data.sources.factory import open_source
from coca.data.sources.table_source import ManifestConfig
from coca.data.sources.tar.shards import ShardsConfig
from coca.search.stores import open_collection
from coca.workflows.training.pretrain_data import (
    DataConfig,
    TokenizerConfig,
    open_sources,
    train_tokenizer,
)
from store_changes import patch
from tiny_cli import Run, RunJson
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture
def filled(run: Run, model: str, images: list[str]) -> list[str]:
    """Six images with captions in the default collection."""
    for n in range(3, 6):
        Path(f"photos/{n}.png").write_bytes(image_bytes(n))
    paths = [str(Path(f"photos/{n}.png").absolute()) for n in range(6)]
    for n, path in enumerate(paths):
        words = {"caption": f"number {n}", "n": n}
        Path(path).with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
    run("index", "photos", "-m", model)
    return paths


def test_what_is_liked_or_was_seen_is_not_recommended(
    run: Run, run_json: RunJson, filled: list[str]
) -> None:
    hits = run_json("recommend", filled[0], "--diversity", "0", "-k", "9")
    assert {hit["path"] for hit in hits} == set(filled[1:])
    rest = run_json("recommend", filled[0], "--diversity", "0", "--seen", hits[0]["id"])
    assert rest == hits[1:]
    mixed = run_json(
        "recommend", "a car:2", filled[1], "--negative", filled[2], "--diversity", "0.5"
    )
    assert filled[1] not in {hit["path"] for hit in mixed}
    assert "score" in run("recommend", "a car").stdout
    assert "none.png does not exist" in run("recommend", "none.png", code=2).stderr


def test_near_duplicates_are_reported_within_and_against_others(
    run: Run, run_json: RunJson, filled: list[str], model: str
) -> None:
    assert run_json("duplicates")["pairs"] == []
    small, large, test = "photos/small.png", "photos/large.png", "test.png"
    Path(small).write_bytes(image_bytes(7, side=64))
    with Image.open(small) as image:
        image.resize((96, 96)).save(large)
        image.resize((128, 128)).save(test)
    run("index", "photos", "-m", model)
    small, large = (str(Path(name).absolute()) for name in (small, large))
    within = run_json("duplicates")
    assert within["pair_counts"] == {"same image": 1, "part or edit": 0}
    assert {within["pairs"][0][name] for name in ("first", "second")} == {small, large}
    # The larger image stays.
    assert (within["groups"], within["drop"]) == ([[large, small]], [small])
    shown = run("duplicates").stdout
    assert "1 pairs of the same image, and 0 of a part or edit among 8 images" in shown
    against = run_json("duplicates", "--against", test)
    pairs = {(one["first"], one["second"]) for one in against["pairs"]}
    assert pairs == {(small, test), (large, test)}
    assert (against["groups"], against["drop"]) == ([], [large, small])


def test_exact_copies_are_named_when_they_come_and_as_duplicates(
    run: Run, run_json: RunJson, filled: list[str], model: str
) -> None:
    folder = Path("photos").absolute()
    for name in ("z1.png", "z2.png"):
        shutil.copy(filled[4], folder / name)
    output = run_json("index", "photos", "-m", model)
    copies = [str(folder / name) for name in ("z1.png", "z2.png")]
    assert output["duplicates"] == 2
    assert output["copies"] == [{"path": path, "of": filled[4]} for path in copies]
    within = run_json("duplicates")
    assert within["copies"] == [{"path": filled[4], "copies": copies}]
    assert set(copies) <= set(within["drop"])
    shown = run("duplicates").stdout
    assert "same bytes          photos/4.png  photos/z1.png" in shown
    assert "2 files with the same bytes as another" in shown
    # Whoever drops what is like a test set must drop its copies as well.
    shutil.copy(filled[4], "test.png")
    against = run_json("duplicates", "--against", "test.png")
    assert {filled[4], *copies} <= set(against["drop"])
    shutil.copy(filled[5], folder / "z3.png")
    assert "photos/z3.png is a copy of photos/5.png" in run("index", "photos", "-m", model).stdout


def test_a_mined_subset_is_a_manifest_of_the_right_images(
    run: Run, run_json: RunJson, filled: list[str]
) -> None:
    output = run_json("mine", "some.jsonl", "--count", "2", "--positive", filled[3])
    assert (output["chosen"], output["of"]) == (2, 6)
    source = open_source(ManifestConfig(path="some.jsonl"))
    assert source.read(0).image == Path(filled[3]).read_bytes()
    assert source.read(0).captions == ("number 3",)
    run("mine", "half.jsonl", "--fraction", "0.5", "--diverse", "--filter", 'metadata["n"] > 1')
    rows = [json.loads(line) for line in Path("half.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["n"] > 1 for row in rows)
    run("mine", "query.jsonl", "--count", "1", "--query", "number 5")
    run("mine", "copied", "--count", "3")
    assert "{kind: shards, path: other}" in run("mine", "other", "--count", "3").stdout
    copied = open_source(ShardsConfig(path="copied"))
    assert {copied.read(row).image for row in range(3)} <= {Path(p).read_bytes() for p in filled}


def test_hidden_records_are_neither_chosen_nor_counted(
    run: Run, run_json: RunJson, filled: list[str]
) -> None:
    with open_collection("coca.db") as collection:
        hidden = collection.ids('metadata["n"] < 4')
        patch(collection, {id: {"hidden": True} for id in hidden})
    output = run_json("mine", "half.jsonl", "--fraction", "0.5")
    assert (output["chosen"], output["of"]) == (1, 2)
    filtered = run_json("mine", "one.jsonl", "--fraction", "0.5", "-f", 'metadata["n"] < 5')
    assert (filtered["chosen"], filtered["of"]) == (1, 2)
    assert "1 of 2 images are in all.jsonl" in run("mine", "all.jsonl", "--count", "1").stdout
    assert run_json("duplicates")["count"] == 2
    assert "among 2 images" in run("duplicates").stdout
    with open_collection("coca.db") as collection:
        patch(collection, {id: {"hidden": True} for id in collection.ids()})
    assert "has only hidden images" in run("mine", "x.jsonl", "--count", "1", code=1).stderr


@pytest.mark.parametrize("out", ["some.jsonl", "some"])
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([{"caption": "a car"}, {"caption": "a dog"}], "path: OUT}]"),
        ([{"label": "car"}, {"label": "dog"}], "path: OUT, text: labels}]"),
        ([{"caption": "a car"}, {}], "1 of 2 have captions"),
        ([{}, {}], "none of them has a caption or a label"),
    ],
)
def test_the_hint_of_mine_fits_what_was_mined(
    run: Run, model: str, images: list[str], words: list[dict[str, Any]], hint: str, out: str
) -> None:
    for path, record in zip(images, words, strict=False):
        Path(path).with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
    run("index", *images[: len(words)], "-m", model)
    output = run("mine", out, "--count", "2").stdout
    assert hint.replace("OUT", out) in output
    # What is hinted at is read by training: its sources have the text that they are set to.
    if "data.sources=" in output:
        changes = shlex.split(output[output.index("pretrain RECIPE.yaml") :])[2:]
        loaded = load_config(DataConfig, overrides=[one.removeprefix("data.") for one in changes])
        sources = open_sources(loaded.sources)
        assert len(sources[0][1]) == 2
        train_tokenizer(sources, vocab_size=300, config=TokenizerConfig())


def test_another_models_vectors_are_refused(
    run: Run, filled: list[str], model: str, tmp_path: Path
) -> None:
    newer = str(write_model(tmp_path / "newer", seed=1))
    for call in (
        ("mine", "x.jsonl", "--count", "1", "-q", "car"),
        ("mine", "x.jsonl", "--count", "1", "--diverse"),
        ("duplicates", "--against", filled[0]),
    ):
        assert "was filled by model" in run(*call, "-m", newer, code=1).stderr
    run("classes", "add", "cat,dog", "-c", "newer", "-m", newer)
    call = ("mine", "x.jsonl", "--count", "1", "--uncertain", "newer")
    assert "collection 'newer' in coca.db was filled by model" in run(*call, code=1).stderr
    assert not Path("x.jsonl").exists()


def test_classes_take_the_model_of_the_images_at_the_same_uri(
    run: Run, run_json: RunJson, filled: list[str], model: str, tmp_path: Path
) -> None:
    assert run_json("classes", "add", "cat,dog")["classes"] == ["cat", "dog"]
    # The model of both is found by the collection, also where images are named.
    assert len(run_json("classify", filled[0], "--classes", "classes")[0]["predictions"]) == 2
    run("mine", "uncertain.jsonl", "--count", "3", "--uncertain", "classes")
    newer = str(write_model(tmp_path / "newer", seed=1))
    cure = "with `coca classes add LABELS --collection NAME`"
    wrong = ("classify", filled[0], "--classes", "classes", "-m", newer)
    assert cure in run(*wrong, code=1).stderr
    run("classes", "add", "cat", "-c", "newer", "-m", newer)
    assert cure in run("mine", "x.jsonl", "--count", "1", "--uncertain", "newer", code=1).stderr
    # Where none is called `pictures`, one model is enough, and several are a question.
    for models, code in (([newer, newer], 0), ([newer, model], 2)):
        uri = f"{code}.db"
        for name, one in zip("ab", models, strict=True):
            run("index", "photos", "--uri", uri, "-c", name, "-m", one, "--no-captions")
        output = run("classes", "add", "cat", "--uri", uri, code=code)
        assert code == 0 or "by several models" in output.stderr


def test_classes_come_and_go_and_answer_as_labels_do(
    run: Run, run_json: RunJson, filled: list[str], model: str
) -> None:
    made = run_json("classes", "add", "red car, dog,apple", "--prompts", "drawing", "-m", model)
    assert made["classes"] == ["apple", "dog", "red car"]
    plain = run_json(
        "classify", *filled, "-l", "red car,dog,apple", "--prompts", "drawing", "-m", model
    )
    kept = run_json("classify", *filled, "--classes", "classes", "-m", model)
    for one, other in zip(plain, kept, strict=True):
        assert [p["label"] for p in one["predictions"]] == [
            p["label"] for p in other["predictions"]
        ]
        assert [p["probability"] for p in other["predictions"]] == pytest.approx(
            [p["probability"] for p in one["predictions"]], abs=1e-4
        )
    assert run_json("classes", "remove", "dog")["classes"] == ["apple", "red car"]
    assert run("classes", "list").stdout.split("\n")[:2] == ["apple", "red car"]
    labels = run_json("classify", filled[0], "--classes", "classes", "-m", model)[0]["predictions"]
    assert {one["label"] for one in labels} == {"apple", "red car"}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["mine", "x.jsonl"], 2, "either count or fraction"),
        (["mine", "x.jsonl", "--fraction", "2"], 2, "a number in (0, 1]"),
        (["mine", "x.txt", "--count", "1"], 2, "ends in .jsonl"),
        (["mine", "x.jsonl", "--count", "1", "--min-score", "0.5"], 2, "0.5 needs scores"),
        (["mine", "x.jsonl", "--count", "1", "-q", "a", "--min-score", "1"], 1, "none of 6"),
        (["mine", "x.jsonl", "--count", "1", "-q", "a", "--min-score", "2"], 2, "a cosine in [-1"),
        (["mine", "x.jsonl", "--count", "1", "-q", "a", "--min-score", "nan"], 2, "at least -1"),
        (["mine", "x.jsonl", "--count", "1", "-f", "width > 9999"], 1, "fulfils the filter"),
        (
            ["mine", "x.jsonl", "--count", "1", "-q", "a", "--positive", "photos/0.png"],
            2,
            "one of them",
        ),
        (["classes", "add", " , "], 2, "no class"),
        (["classes", "add", "cat", "-m", "x", "-c", "a-b"], 2, "cannot name a collection"),
        (["classes", "remove", "zebra", "-c", "pictures"], 1, "no class 'zebra'"),
        (["classes", "list", "-c", "pictures"], 1, "contains 6 images"),
        (["classify", "photos", "--classes", "x", "-l", "a,b"], 2, "leave one of them out"),
        (["classify", "photos", "--classes", "none"], 1, "LABELS --collection none` makes one"),
        (["classes", "list", "-c", "none"], 1, "LABELS --collection none` makes one"),
        (["classes", "remove", "a", "-c", "none"], 1, "LABELS --collection none` makes one"),
    ],
)
def test_a_wrong_call_is_reported_by_one_sentence(
    run: Run, filled: list[str], arguments: list[str], code: int, sentence: str
) -> None:
    assert sentence in run(*arguments, code=code).stderr
