"""Captions in XMP sidecars and tables: what other programs read, and what stays as it was."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import DataError
from coca.search.edits import edited
from coca.search.ingest.exif import clean
from coca.search.ingest.photo_metadata import read_xmp
from coca.search.ingest.sources import FileSource, read_annotation
from coca.search.ingest.xmp_packet import EMPTY_PACKET, replace_properties
from coca.search.records import FAVOURITE, Origin, Record, content_id, record_id
from coca.search.store import Collection
from coca.search.stores import open_collection
from coca.workflows.collections.caption_export import export_captions
from coca.workflows.collections.image_sources import open_sources, resolve_uri
from store_indexer import Slow
from store_writer import DIM, direction
from tiny_ingest import ingest

PHOTOS = Path(__file__).parents[2] / "search" / "ingest" / "photos"
EXIFTOOL = shutil.which("exiftool")
LIGHTROOM = b"""\xef\xbb\xbf<?xpacket begin=''?><!-- <dc:subject>no</dc:subject> -->
<q:xmpmeta xmlns:q="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<r:Description r:about="uuid:1" xmlns:core='http://purl.org/dc/elements/1.1/' xmlns:dc="urn:other"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" dc:note='> xmp:Label="kept" --> ' xmp:Label = 'Red'
 xmp:Rating="4"><core:subject><r:Bag><r:li>old</r:li></r:Bag></core:subject><dc:subject>x &lt;
</dc:subject><![CDATA[ ]]></r:Description><r:Description r:about="uuid:1"/></r:RDF></q:xmpmeta>"""


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    uri = str(tmp_path / "pictures.db")
    with open_collection(uri, embed_dim=DIM, fingerprint="model-1", create=True) as opened:
        yield opened


def record(path: Path, caption: str = "", tags: tuple[str, ...] = (), **fields: Any) -> Record:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    fields |= {"content": content_id(path.name.encode()), "vector": direction(path.name)}
    fields |= {"text_vector": direction(caption) if caption else None}
    return Record(id=record_id(str(path)), path=str(path), caption=caption, tags=tags, **fields)


def exiftool(*paths: Path) -> list[dict[str, Any]]:
    """Read the XMP properties of files."""
    if EXIFTOOL is None:
        pytest.skip("exiftool is not installed: apt-get install libimage-exiftool-perl")
    command = [EXIFTOOL, "-j", "-G1", "-struct", "-XMP:all", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, check=True)
    tags: list[dict[str, Any]] = json.loads(done.stdout)
    return [{name[4:]: tag for name, tag in one.items() if name.startswith("XMP-")} for one in tags]


def test_exiftool_reads_what_is_written(collection: Collection, tmp_path: Path) -> None:
    paths = [tmp_path / "in" / name for name in ("a.jpg", "sub/b.jpg", "c.jpg", "d.jpg")]
    ours = record(
        paths[0], "Ä <boat> & 🐈", ("sea", FAVOURITE, "it's"), metadata={"people": ["Zoë"]}
    )
    generated = record(paths[2], "a generated one", origin=Origin(captioned=True))
    collection.upsert([ours, record(paths[1], "two"), generated, record(paths[3])])
    targets = [tmp_path / "out" / "a.jpg.xmp", tmp_path / "out" / "sub" / "b.jpg.xmp"]
    planned = export_captions(collection, tmp_path / "out", dry_run=True)
    assert (sorted(planned.written), planned.unchanged) == ([*map(str, targets)], 2)
    assert not (tmp_path / "out").exists()
    assert export_captions(collection, tmp_path / "out") == planned
    wanted = {
        "dc:Description": "Ä <boat> & 🐈",
        "dc:Subject": ["sea", "it's"],
        "iptcExt:PersonInImage": ["Zoë"],
        "xmp:Label": FAVOURITE,
    }
    assert exiftool(*targets) == [wanted, {"dc:Description": "two"}]
    report = export_captions(collection, generated=True)
    assert (len(report.written), report.unchanged) == (3, 1)
    assert exiftool(paths[2].with_suffix(".jpg.xmp")) == [{"dc:Description": "a generated one"}]
    assert [path.read_bytes() for path in paths] == [path.name.encode() for path in paths]
    assert read_annotation(paths[0]) == read_xmp(targets[0].read_bytes())
    assert export_captions(collection, generated=True).unchanged == 4
    # One that is written stays generated in the collection.
    ingest([FileSource([tmp_path / "in"])], Slow(1), collection)
    sources = {one.path: one.caption_source for page in collection.pages() for one in page}
    assert [sources[str(path)] for path in paths] == ["given", "given", "model", ""]


def test_a_single_name_is_exported(collection: Collection, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    collection.upsert([record(path, metadata={"people": "Zoë"})])
    export_captions(collection)
    assert read_annotation(path).metadata == {"people": ["Zoë"]}
    export_captions(collection, tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["people"] == ["Zoë"]


def test_a_sidecar_of_another_program_keeps_its_other_fields(
    collection: Collection, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    sidecar = tmp_path / "a.jpg.xmp"
    shutil.copy(PHOTOS / "sidecar.xmp", sidecar)
    (before,) = exiftool(sidecar)
    plain = record(path, "A sidecar's caption", ("raw", "more"))
    # What nobody edited here may be newer there.
    collection.upsert([replace(plain, caption="older")])
    assert export_captions(collection).unchanged == 1
    collection.upsert([edited(plain, caption="ours", tags=["mine"])])
    for changed in (1, 0):
        assert len(export_captions(collection).written) == changed
        (after,) = exiftool(sidecar)
        assert after == before | {"dc:Description": "ours", "dc:Subject": ["mine"]}
    collection.upsert([edited(plain, caption="", tags=[FAVOURITE])])
    export_captions(collection)
    rest = {name: tag for name, tag in before.items() if name[3:] not in ("Description", "Subject")}
    assert exiftool(sidecar) == [rest | {"xmp:Label": FAVOURITE}]
    collection.upsert([plain])
    export_captions(collection)
    assert exiftool(sidecar)[0] == before | {"dc:Subject": ["raw", "more"]}


def test_all_other_bytes_of_a_packet_stay() -> None:
    wanted = {"dc:description": ["ours"], "dc:subject": ["a", "b"], "xmp:Label": [FAVOURITE]}
    found = replace_properties(LIGHTROOM, wanted)
    cut = LIGHTROOM.replace(b" xmp:Label = 'Red'", b"")
    cut = re.sub(b"<core:subject>.*</core:subject>", b"", cut)
    added = re.sub(rb"\n   <(dc:description|dc:subject|xmp:Label) xmlns.*</\1>", b"", found)
    assert added == cut
    assert read_xmp(found).tags == ("a", "b", FAVOURITE)
    assert (read_xmp(found).caption, read_xmp(found).metadata) == ("ours", {"rating": 4})
    again = replace_properties(found, wanted)
    assert (again, replace_properties(again, {name: [] for name in wanted})) == (found, cut)


@pytest.mark.parametrize(
    "packet",
    [
        b"no XMP",
        b"<a/>",
        LIGHTROOM[:-4],
        b'<!DOCTYPE r [<!ENTITY e "x">]>' + LIGHTROOM,
        LIGHTROOM + b" " * (4 << 20),
        LIGHTROOM.replace(b"old", b"\xff"),
        LIGHTROOM.decode().encode("utf-16"),
        LIGHTROOM.replace(b"old", b"<r:li>" * 99 + b"</r:li>" * 99),
    ],
)
def test_a_damaged_sidecar_is_reported_and_stays(
    collection: Collection, tmp_path: Path, packet: bytes
) -> None:
    with pytest.raises(DataError, match="XMP that cannot be changed"):
        replace_properties(packet, {"dc:subject": ["a"]})
    collection.upsert([record(tmp_path / "a.jpg", "ours"), record(tmp_path / "b.jpg", "two")])
    (tmp_path / "a.jpg.xmp").write_bytes(packet)
    (tmp_path / "b.jpg").unlink()
    report = export_captions(collection)
    assert sorted(path for path, _ in report.bad) == [f"{tmp_path}/{name}.jpg.xmp" for name in "ab"]
    assert (tmp_path / "a.jpg.xmp").read_bytes() == packet
    assert not (tmp_path / "b.jpg.xmp").exists()


unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(unicode, st.lists(unicode, max_size=4), st.sampled_from([EMPTY_PACKET, LIGHTROOM]))
def test_any_text_is_read_back(caption: str, tags: list[str], packet: bytes) -> None:
    wanted = [tag for tag in dict.fromkeys(map(clean, tags)) if tag]
    texts = {"dc:description": [clean(caption)] if clean(caption) else [], "dc:subject": wanted}
    read = read_xmp(replace_properties(packet, texts))
    assert (read.caption, read.tags) == (clean(caption), tuple(wanted))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_is_indexed_again(collection: Collection, tmp_path: Path, suffix: str) -> None:
    generated = record(tmp_path / "b.jpg", "no", origin=Origin(captioned=True))
    collection.upsert([record(tmp_path / "a.jpg", 'a "red", car', ("x", "ä")), generated])
    out = tmp_path / f"captions{suffix}"
    assert export_captions(collection, out).written == [str(out)]
    uri = str(tmp_path / "b.db")
    with open_collection(uri, embed_dim=DIM, fingerprint="model-1", create=True) as other:
        ingest(open_sources([resolve_uri(str(out))]), Slow(1), other)
        read = {one.path: (one.caption, one.tags) for page in other.pages() for one in page}
    assert read == {
        str(tmp_path / "a.jpg"): ('a "red", car', ("x", "ä")),
        str(tmp_path / "b.jpg"): ("", ()),
    }


EXPORT = """
import sys
from coca.search.stores import open_collection
from coca.workflows.collections.caption_export import export_captions
with open_collection(sys.argv[1]) as collection:
    print("open", flush=True)
    export_captions(collection)
"""


def test_a_killed_export_leaves_no_half_file(collection: Collection, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n:03}.jpg" for n in range(200)]
    texts = ["old " * 4_000, "new " * 4_000]
    kills = 0
    for text in texts:
        collection.upsert(edited(record(path), caption=text) for path in paths)
        process = subprocess.Popen(
            [sys.executable, "-c", EXPORT, collection.info.uri], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None and not any(
            path.stat().st_mtime_ns > paths[-1].stat().st_mtime_ns
            for path in tmp_path.glob("*.xmp")
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = [read_xmp(path.read_bytes()).caption for path in tmp_path.glob("*.xmp")]
        assert set(found) <= {one.strip() for one in texts}
        kills += process.returncode == -signal.SIGKILL
        export_captions(collection)
        assert {read_annotation(path).caption for path in paths} == {text.strip()}
    assert kills
