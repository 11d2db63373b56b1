import os
from pathlib import Path
from typing import Any

import pytest

from coca.search.stores import open_collection
from store_changes import patch
from tiny_cli import Run, RunJson


def test_a_collection_is_listed_and_described(run: Run, run_json: RunJson, filled: Any) -> None:
    (row,) = run_json("collection", "list")
    assert (row["name"], row["count"], row["uri"]) == ("pictures", 3, "coca.db")
    output = run_json("collection", "info")
    assert (output["count"], output["captioned"], output["hidden"]) == (3, 3, 0)
    assert output["store"].startswith("SQLite 3.")
    assert output["size_bytes"] == Path("coca.db").stat().st_size
    assert output["indexes"] == {}
    assert " MB" in run("collection", "info").stdout


def test_the_only_collection_needs_no_name(
    run: Run, run_json: RunJson, model: str, images: list[str]
) -> None:
    run("index", images[0], "-c", "holidays", "-m", model, "--no-captions")
    assert run_json("index", images[1], "--no-captions")["collection"] == "holidays"
    assert len(run_json("search", "red car")) == 2
    assert run_json("collection", "info")["name"] == "holidays"
    assert run_json("collection", "unhide")["collection"] == "holidays"
    assert run_json("collection", "export", "--dry-run")["collection"] == "holidays"
    assert run_json("duplicates")["count"] == 2
    run("caption", images[0], "--set", "a boat")
    assert run_json("migrate", "coca.db", "b.db")["collection"] == "holidays"
    run("index", images[2], "-c", "work", "-m", model, "--no-captions")
    for call in (["search", "red car"], ["index", images[0]], ["collection", "info"]):
        refused = run(*call, code=1).stderr.replace("\n", " ")
        assert "coca.db has the collections holidays, work, and none of them is" in refused


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_collection_of_milvus_has_indexes(
    run: Run, run_json: RunJson, model: str, images: list[str]
) -> None:
    uri = ["--uri", "milvus-lite:milvus.db"]
    run("index", "photos", "-m", model, "--no-captions", *uri)
    output = run_json("collection", "info", *uri)
    assert (output["count"], output["size_bytes"]) == (3, None)
    assert output["indexes"]["image"]["state"] == "Finished"
    assert "index of images" in run("collection", "info", *uri).stdout
    Path("keys.json").write_text('{"a-secret-key-of-three-dozen-letters": {"name": "anna"}}')
    served = run("serve", "--keys", "keys.json", *uri, code=2).stderr.replace("\n", " ")
    assert "Milvus Lite opens a port of its own" in served


@pytest.mark.parametrize(
    "call",
    [
        ["search", "x", "-k", "99999"],
        ["migrate", "coca.db", "b.db", "--index", "FLAT"],
    ],
)
def test_a_wrong_call_ends_with_2(run: Run, filled: Any, call: list[str]) -> None:
    run(*call, code=2)


def test_hidden_records_are_counted_and_shown_again(
    run: Run, run_json: RunJson, filled: Any
) -> None:
    found = [one["id"] for one in run_json("search", "a red car")]
    with open_collection("coca.db") as collection:
        patch(collection, {id: {"hidden": True} for id in found[:2]})
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
    assert not Path("runs").exists()
    refused = run("collection", "drop", "best", "--yes", "--uri", "b.db", code=1)
    assert "no collection 'best' in b.db (it has moved)" in refused.stderr
    asked = run("collection", "drop", "moved", "--json", "--uri", "b.db", code=2)
    assert "pass --yes" in asked.stderr
    assert asked.stdout.strip() == ""
    run("collection", "drop", "moved", "--yes", "--uri", "b.db")
    assert "there are none" in run("collection", "list", "--uri", "b.db").output


def test_captions_are_corrected_exported_and_restored(
    run: Run, run_json: RunJson, filled: Any, images: list[str]
) -> None:
    (before,) = run_json("caption", images[1], "--undo")
    words = ["--set", "our cat = Tom", "--set", "tags=cat,home", "--set", "people=Anna"]
    (ours,) = run_json("caption", images[1], *words)
    assert (ours["caption"], ours["tags"]) == ("our cat = Tom", ["cat", "home"])
    assert (ours["metadata"]["people"], ours["unedited"]["caption"]) == (
        ["Anna"],
        before["caption"],
    )
    found = run_json("search", "our cat = Tom", "--on", "text", "-k", "1")
    assert [hit["id"] for hit in found] == [ours["id"]]
    listed = run("collection", "export", "--dry-run").stdout
    assert f"{images[1]}.xmp" in listed.replace("\n", "")
    assert "2 files would be written, 1 images need none" in listed
    output = run_json("collection", "export")
    assert sorted(map(os.path.relpath, output["written"])) == [f"{name}.xmp" for name in images[:2]]
    Path(f"{images[1]}.xmp").write_text("damaged")
    refused = run("collection", "export", code=1).stderr
    assert "XMP that cannot be changed" in refused.replace("\n", " ")
    (restored,) = run_json("caption", images[1], "--undo")
    assert restored == before
    missing = run("caption", "absent.jpg", "--set", "x", code=1).stderr
    assert "absent.jpg is not in collection 'pictures'" in missing.replace("\n", " ")
