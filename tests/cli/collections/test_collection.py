from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tiny_collection import fewer_general_queries
from tiny_data import image_bytes

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_a_collection_is_listed_described_and_given_another_index(
    run: Run, run_json: RunJson, filled: Any
) -> None:
    (row,) = run_json("collection", "list")
    assert (row["name"], row["count"], row["aliases"]) == ("pictures", 3, [])
    output = run_json("collection", "info")
    assert (output["count"], output["captioned"], output["own_name"]) == (3, 3, row["own_name"])
    image = output["indexes"]["image"]
    assert (image["index"], image["state"]) == ("HNSW:M=16,efConstruction=200", "Finished")
    assert run_json("collection", "index", "pictures", "flat")["index"] == "FLAT"
    assert run_json("collection", "info")["indexes"]["text"]["index"] == "FLAT"
    refused = run("collection", "index", "pictures", "DISKANN", "--no-fallback", code=1)
    assert "cannot build DISKANN" in refused.stderr
    assert "did you mean 'HNSW'" in run("collection", "index", "pictures", "HNWS", code=2).stderr


@pytest.mark.parametrize(
    "call",
    [
        ["search", "x", "-k", "99999"],
        ["search", "x", "--since", "2024-02-01", "--until", "2024-01-01"],
        ["duplicates", "--min-similarity", "2"],
        ["collection", "index", "pictures", "NOPE"],
        ["collection", "index", "pictures", "HNSW:M=1"],
        ["collection", "list", "--uri", "foo.txt"],
        ["migrate", "coca.db", "./coca.db"],
    ],
)
def test_a_wrong_call_ends_with_2(run: Run, filled: Any, call: list[str]) -> None:
    run(*call, code=2)


def test_a_collection_moves_and_goes(run: Run, run_json: RunJson, filled: Any) -> None:
    moved = run_json("migrate", "coca.db", "b.db", "--to-collection", "moved", "--index", "FLAT")
    assert (moved["records"], moved["written"]) == (3, 3)
    assert len(run_json("search", "car", "--uri", "b.db", "-c", "moved")) == 3
    assert not list(Path("runs").iterdir())
    assert (
        "are the same collection" in run("migrate", "b.db", "./b.db", "-c", "moved", code=2).stderr
    )
    run("collection", "alias", "best", "moved", "--uri", "b.db")
    assert len(run_json("search", "car", "--uri", "b.db", "-c", "best")) == 3
    assert run_json("collection", "list", "--uri", "b.db")[0]["aliases"] == ["best"]
    refused = run("collection", "drop", "best", "--yes", "--uri", "b.db", code=1)
    assert "alias of 'moved_" in refused.stderr
    asked = run("collection", "drop", "moved", "--json", "--uri", "b.db", code=2)
    assert "pass --yes" in asked.stderr
    assert asked.stdout.strip() == ""
    run("collection", "drop", "moved", "--yes", "--uri", "b.db")
    assert "there are none" in run("collection", "list", "--uri", "b.db").output


@pytest.fixture
def _fewer_queries() -> Iterator[None]:
    with fewer_general_queries():
        yield


@pytest.mark.usefixtures("_fewer_queries")
def test_a_calibrated_collection_is_searched_with_match_probabilities(
    run: Run, run_json: RunJson, model: str, cwd: Path
) -> None:
    Path("photos").mkdir()
    for n in range(20):
        Path(f"photos/{n}.png").write_bytes(image_bytes(n))
        Path(f"photos/{n}.txt").write_text(f"car {'abcdefghijklmnopqrst'[n]}", encoding="utf-8")
    run_json("index", "photos", "-m", model)
    plain = run_json("search", "car a")
    assert {hit["match_probability"] for hit in plain} == {None}
    assert run_json("collection", "info")["calibration"] is None
    made = run_json("collection", "calibrate", "--false-alarms", "0.25")
    assert run_json("collection", "info")["calibration"]["false_alarms"] == 0.25
    assert "25 % false alarms" in run("collection", "info").output
    assert (made["captions"], made["calibration"]["false_alarms"]) == ("given", 0.25)
    hits = run_json("search", "car a")
    threshold = made["calibration"]["threshold"]
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in plain]
    # A person named one of them by all words of the query.
    assert [hit["is_match"] for hit in hits] == [
        hit["match_probability"] > threshold or hit["caption"] == "car a" for hit in hits
    ]
    assert run_json("search", "car a", "--no-match") == plain
    few = [hit["is_match"] for hit in hits if not hit["is_match"]]
    shown = run("search", "car a").output
    assert shown.count("% no") == len(few)
    assert ("nothing matches" in shown) == (len(few) == len(hits))
    again = run("collection", "calibrate", "--false-alarms", "0.3", "--texts", "10").output
    assert "match probability" in again
    assert run("collection", "calibrate", "--false-alarms", "2", code=2)
