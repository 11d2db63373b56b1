from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coca.search.milvus.collection import Collection
from tiny_cli import Run, RunJson
from tiny_data import image_bytes


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
    changed = run_json("collection", "index", "pictures", "HNSW", "--index-param", "M=32")
    assert changed["index"] == "HNSW:M=32"
    refused = run("collection", "index", "pictures", "DISKANN", code=1).stderr.replace("\n", " ")
    assert "unknown index_type: 'DISKANN'; docs/milvus.md lists index types" in refused
    assert run_json("collection", "info")["indexes"]["image"]["index"] == "HNSW:M=32"


@pytest.mark.parametrize(
    "call",
    [
        ["search", "x", "-k", "99999"],
        ["collection", "index", "pictures", "HNSW", "--index-param", "M"],
        ["migrate", "coca.db", "b.db", "--index", "FLAT"],
        ["collection", "list", "--uri", "foo.txt"],
    ],
)
def test_a_wrong_call_ends_with_2(run: Run, filled: Any, call: list[str]) -> None:
    run(*call, code=2)


def test_hidden_records_are_counted_and_shown_again(
    run: Run, run_json: RunJson, filled: Any
) -> None:
    found = [one["id"] for one in run_json("search", "a red car")]
    with Collection.open("coca.db") as collection:
        first, second = collection.get(found[:2]).values()
        trashed = replace(second, metadata={"trashed": 1_796_021_997})
        collection.upsert([replace(first, metadata={"hidden": True}), trashed])
    assert [one["id"] for one in run_json("search", "a red car")] == found[2:]
    assert run_json("collection", "info")["hidden"] == 2
    assert "2 of them" in run("collection", "info").stdout
    refused = run("collection", "unhide", "pictures", found[2], code=1).stderr
    assert "is not a hidden record" in refused
    assert run_json("collection", "unhide", "pictures", found[1])["shown"] == [found[1]]
    assert [one["id"] for one in run_json("search", "a red car")] == found[1:]
    assert "find 1 records again" in run("collection", "unhide").stdout
    assert [one["id"] for one in run_json("search", "a red car")] == found


def test_a_collection_moves_and_goes(run: Run, run_json: RunJson, filled: Any) -> None:
    moved = run_json("migrate", "coca.db", "b.db", "--to-collection", "moved")
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


def test_a_calibrated_collection_is_searched_with_match_probabilities(
    run: Run, run_json: RunJson, model: str, cwd: Path
) -> None:
    Path("photos").mkdir()
    for n in range(20):
        Path(f"photos/{n}.png").write_bytes(image_bytes(n))
        Path(f"photos/{n}.txt").write_text(f"car {'abcdefghijklmnopqrst'[n]}", encoding="utf-8")
    run_json("index", "photos", "-m", model)
    plain = run_json("search", "car d")
    assert {hit["match_probability"] for hit in plain} == {None}
    assert run_json("collection", "info")["calibration"] is None
    made = run_json("collection", "calibrate", "--false-alarms", "0.25")
    assert made["calibration"] == run_json("collection", "info")["calibration"]
    assert made["calibration"]["false_alarms"] == 0.25
    assert "25 % false alarms" in run("collection", "info").output
    hits = run_json("search", "car d")
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in plain]
    assert [hit["is_match"] for hit in hits] == [hit["match_probability"] > 0.5 for hit in hits]
    assert {hit["query_matches"] for hit in hits} == {any(hit["is_match"] for hit in hits)}
    unmarked = run_json("search", "car d", "--no-match")
    assert [hit["id"] for hit in unmarked] == [hit["id"] for hit in plain]
    assert {hit["query_matches"] for hit in unmarked} == {None}
    shown = run("search", "car d").output
    assert shown.count("% no") == sum(not hit["is_match"] for hit in hits)
