import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tiny_cli import Run, RunJson, run_traced
from tiny_model import write_model


@pytest.mark.slow
def test_a_search_imports_and_collects_nothing_needlessly(filled: Any) -> None:
    """Counted in modules and objects: the time depends on the load of the machine."""
    output, frozen, modules = run_traced("search", "a red car", "-k", "1")
    assert "a red [car]" in output or ".png" in output
    assert frozen > 100_000
    # The first comes with drawing numbers on the meta device, and costs as much as torch itself.
    needless = {"torch._dynamo", "sympy", "torchvision", "transformers", "rich.markdown", "av"}
    assert needless & modules == set()
    assert not {name for name in modules if name.startswith(("coca.train", "coca.tasks"))}


@pytest.mark.slow
def test_a_text_search_by_a_shipped_model_imports_no_torch(
    run_json: RunJson, images: list[str]
) -> None:
    run_json("index", "photos", "-m", "everyday")
    needless = {
        "torch",
        "torchvision",
        "einops",
        "timm",
        "fastapi",
        "coca.data",
        "coca.model.coca",
    }

    def imported(*words: str) -> set[str]:
        output, _, modules = run_traced("search", *words)
        assert ".png" in output
        return needless & modules

    assert imported("a red car") == imported("a red car", "--text", "night:-0.5") == set()
    assert "torch" in imported("a red car", "--device", "cpu")
    assert "torch" in imported("--image", images[1])


def test_texts_filters_and_the_min_score_narrow_a_search(
    run_json: RunJson, filled: Any, images: list[str]
) -> None:
    everything = run_json("search", "a red car", "--no-hybrid")
    assert len(everything) == 3
    (hit,) = run_json("search", "a red car", "--filter", 'metadata["year"] > 2020')
    assert hit["caption"] == "a red [car]"
    assert hit["metadata"] == {"year": 2022}
    best = everything[0]["score"]
    least = ["--no-hybrid", "--min-score", str(best - 1e-6)]
    assert run_json("search", "a red car", *least) == everything[:1]
    both = run_json("search", "a red car", "--image", images[2])
    assert {one["id"] for one in both} == {one["id"] for one in everything}


def test_unquoted_words_are_one_text(run: Run, run_json: RunJson, filled: Any) -> None:
    assert run_json("search", "a", "red", "car") == run_json("search", "a red car")
    assert run("search", "a", "red", "car").stderr == ""
    apart = run("search", "red car", "blue sky").stderr
    assert "one text, 'red car blue sky'" in apart
    assert apart.endswith("--text 'red car' --text 'blue sky'\n")


def test_a_date_in_the_text_is_named_with_its_option(run: Run, filled: Any) -> None:
    hint = "'summer 2019' is part of the text; to search that time only: --during 'summer 2019'\n"
    assert run("search", "a red car summer 2019").stderr == hint
    assert run("search", "a red car summer 2019", "--since", "2001").stderr == ""
    assert run("search", "invoice 2024").stderr == ""


def test_a_typing_error_is_reported_with_the_word_that_is_meant(run: Run, filled: Any) -> None:
    found = run("search", "a rde cra").stderr
    assert "'a rde cra': did you mean 'a red car'?" in found
    assert run("search", "a red car").stderr == ""


def test_what_is_unwanted_is_named_with_the_text_as_typed(run: Run, filled: Any) -> None:
    shown = run("search", "car", "without", "dogs").stderr
    assert shown == (
        "searching for 'car' and 'dogs' with weight -0.5; for the text as typed: --text "
        "'car without dogs'\n"
    )


def test_an_image_file_as_query_is_searched_by_its_content(
    run: Run, run_json: RunJson, filled: Any, images: list[str]
) -> None:
    assert run_json("search", images[1]) == run_json("search", "--image", images[1])
    shown = run("search", images[1], "night:-0.3").stderr
    assert shown == f"searching for the image {images[1]!r} and 'night' with weight -0.3\n"


def test_words_of_captions_join_the_ranking(run_json: RunJson, filled: Any) -> None:
    joined = run_json("search", "red car", "--hybrid", "--words-weight", "0.9")
    # The order also depends on cosines of random weights; BM25 finds the words of one caption.
    (found,) = [hit for hit in joined if hit["bm25"]]
    assert found["caption"] == "a red [car]"
    assert found["fused_score"] <= joined[0]["fused_score"] <= 2
    cosines = {one["id"]: one["score"] for one in run_json("search", "red car", "--no-hybrid")}
    assert {one["id"]: one["score"] for one in joined} == pytest.approx(cosines, abs=1e-5)
    by_words = ["--image-weight", "0", "--caption-weight", "0", "--words-weight", "1"]
    first, *others = run_json("search", "red boat", *by_words)
    words = first["bm25"] / (first["bm25"] + 12)
    assert first["fused_score"] == pytest.approx(words + 0.6 / 2**4, abs=1e-6)
    assert {one["fused_score"] for one in others} == {0.0}


def test_reranking_shows_the_likelihood_of_the_text(
    run: Run, run_json: RunJson, filled: Any
) -> None:
    plain = run_json("search", "a red car")
    again = run_json("search", "a red car", "--rerank", "2")
    assert {hit["id"] for hit in again[:2]} == {hit["id"] for hit in plain[:2]}
    assert [hit["log_likelihood"] is not None for hit in again] == [True, True, False]
    first, *shown = run("search", "a red car", "--rerank", "3").stdout.splitlines()
    columns = "rank rank score log likelihood sum words why score caption path"
    assert first.split() == columns.split()
    scores = [float(line.split()[1]) for line in shown]
    assert scores == sorted(scores, reverse=True)


def test_results_for_people_show_rank_score_caption_and_path(run: Run, filled: Any) -> None:
    shown = run("search", "a red car").stdout.splitlines()
    assert shown[0].split() == ["rank", "sum", "words", "why", "score", "caption", "path"]
    assert [line.split()[0] for line in shown[1:]] == ["1", "2", "3"]
    assert sum("a red [car]" in line for line in shown) == 1
    assert "nothing was found" in run("search", "x", "--min-score", "1").stdout


def test_a_time_and_tags_narrow_a_search_and_paths_are_shown_from_here(
    run: Run, run_json: RunJson, model: str, images: list[str]
) -> None:
    days = ["2024-05-31T23:59:59", "2024-06-01", "2024-06-02"]
    for n, (path, day) in enumerate(zip(images, days, strict=True)):
        words = {"caption": "x", "time": day, "tags": ["all", f"n{n}"]}
        Path(path).with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
    run("index", "photos", "-m", model)
    for options, wanted in (
        (["--since", "2024-06-01"], [1, 2]),
        (["--until", "2024-06-01"], [0, 1]),
        (["--since", "2024-06-01", "--until", "2024-06-01", "--filter", "width > 0"], [1]),
        (["--since", "2024-05-31T23:59:59", "--until", "2024-05-31T23:59:59"], [0]),
        (["--tag", "all", "--tag", "n2"], [2]),
        (["--tag", "all"], [0, 1, 2]),
        (["--tag", "n1", "--until", "2024-05-31"], []),
    ):
        hits = run_json("search", "x", *options)
        assert {hit["path"] for hit in hits} == {str(Path(images[n]).absolute()) for n in wanted}
    # Without a query: newest first, and tags in any case.
    for options, wanted in (
        (["--during", "May 2024"], [0]),
        (["--tag", "ALL"], [2, 1, 0]),
        (["--filter", "width > 0", "--offset", "1", "-k", "1"], [1]),
        (["--tag", "n1", "--until", "2024-05-31"], []),
    ):
        hits = run_json("search", *options)
        assert [hit["path"] for hit in hits] == [str(Path(images[n]).absolute()) for n in wanted]
    assert run("search", "--tag", "N1").stdout.splitlines()[1].split() == [
        *("2024-06-01", "x", images[1]),
    ]
    for query in ([], ["x"]):
        refused = run("search", *query, "--tag", "al", code=2).stderr
        assert "no image has the tag 'al'; the nearest are all (3)" in refused
    table = run("search", "x", "--tag", "n1").stdout.splitlines()
    assert table[1].split()[-1] == images[1]
    assert "a date must be a day, month" in run("search", "x", "--since", "June", code=2).stderr
    ends = ["--since", "2024-06-02", "--until", "2024-06-01"]
    assert "the end comes first" in run("search", "x", *ends, code=2).stderr


def test_a_search_falls_back_to_the_named_model_where_its_own_is_gone(
    run: Run,
    run_json: RunJson,
    model: str,
    cwd: Path,
    images: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(model, "moved")
    run("index", "photos", "--model", "moved", "--no-captions")
    shutil.rmtree("moved")
    assert "name its folder by --model" in run("search", "x", code=1).stderr
    monkeypatch.setenv("COCA_MODEL", str(write_model(cwd / "other", seed=1)))
    assert "was filled by model" in run("search", "x", code=1).stderr
    monkeypatch.setenv("COCA_MODEL", model)
    assert len(run_json("search", "x")) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "nothing to search for"),
        (["  "], 2, "nothing to search for"),
        (["--image", "photos/0.png", "--hybrid"], 2, "compares words"),
        (["--image", "photos/0.png", "--rerank", "2"], 2, "add a text"),
        (["night:-0.3"], 2, "a single term needs no weight"),
        (["x", "12:30"], 2, "write 'x 12:30:1'"),
        (["x", "--filter", "year ><"], 2, "'year ><': no such column"),
        (["x", "--collection", "none"], 1, "no collection 'none'"),
        (["x", "--uri", "none.db"], 1, "none.db"),
        (["--image", "none.png"], 1, "none.png"),
        (["x", "-k", "0"], 2, "--limit must be a whole number of at least 1, got 0"),
    ],
)
def test_a_search_that_cannot_be_answered_reports_the_reason(
    run: Run, filled: Any, arguments: list[str], code: int, sentence: str
) -> None:
    output = run("search", *arguments, code=code)
    assert sentence in output.stderr
    assert output.stdout == ""


def test_a_photo_that_is_missing_is_explained(
    run: Run, run_json: RunJson, filled: Any, images: list[str]
) -> None:
    (why,) = run_json("search", "a red car", "--why", images[1])
    hits = run_json("search", "a red car", "--explain")
    assert [one["rank"] for one in hits] == [1, 2, 3]
    assert why == next(one for one in hits if one["id"] == why["id"])
    output = run("search", "a red car", "--why", images[1], "--filter", "width > 9999").stdout
    assert output.startswith("not found score ")
    assert "the filter width > 9999 excludes it" in output
    fault = run("search", "a red car", "--why", "absent.png", code=1).stderr
    assert "absent.png is not indexed" in fault


@pytest.mark.slow
def test_a_line_follows_the_last_likely_hit(run: Run, run_json: RunJson, images: list[str]) -> None:
    run_json("index", "photos", "-m", "everyday")
    hits = run_json("search", "a red car")
    likely = [hit for hit in hits if hit["likely"]]
    assert run_json("search", "a red car", "--likely") == likely
    assert len(run_json("search", "a red car", "--sort", "oldest")) == len(likely)
    rows = run("search", "a red car").stdout.splitlines()[1:]
    line = [row.strip() for row in rows].index("-- probably not --")
    assert ["unlikely" in row for row in rows[line + 1 :]] == [True] * (len(hits) - line)
    assert line == max([row + 1 for row, hit in enumerate(hits) if hit["likely"]], default=0)
