"""Input of strangers, sent to a real `coca serve` process: errors of the right status."""

import base64
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from coca.search.records import content_id
from server_process import SEARCH_HEAD, ServerProcess, child_processes, data_uri
from tiny_data import image_bytes


@pytest.fixture(autouse=True)
def answers_afterwards(process: ServerProcess) -> Iterator[None]:
    """After every test, the service answers and has its items."""
    yield
    assert process.get("/readyz").status == 200
    hits = process.post("/v1/search", {"text": "a red car"}).json()["hits"]
    assert len(hits) == 6


def png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of 1 bit a pixel with any content of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    encoded = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(encoded)


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(stream, "JPEG")
    return stream.getvalue()


def tiff(width: int, height: int) -> bytes:
    """A TIFF header that promises pixels which are not there."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 2**31)]
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + fields + b"\0" * 4


TEXT_BOMB = png(1, 1, b"\0\0", (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (8 << 20))))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (png(100_000, 100_000, b"\0" * 1_000), 413),
        (png(100_000, 1, b"\0" * 12_501), 413),
        (tiff(60_000, 60_000), 413),
        (TEXT_BOMB, 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='100' height='100'/>", 422),
        (b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>", 422),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 422),
        (b"<html><script>alert(1)</script>" + jpeg(), 422),
        (jpeg()[:200], 422),
        (b"\0" * 4_096, 422),
    ],
    ids=[
        "100,000 x 100,000",
        "100,000 x 1",
        "tiff of 60,000 x 60,000",
        "text bomb",
        "svg",
        "xml entity",
        "postscript",
        "html before jpeg",
        "truncated",
        "zeros",
    ],
)
def test_bombs_and_other_formats_are_rejected_everywhere(
    process: ServerProcess, data: bytes, status: int
) -> None:
    uri = data_uri(data)
    for route, body in (
        ("/v1/items", {"image": uri, "collection": "others"}),
        ("/v1/search", {"image": uri}),
        ("/v1/embeddings", {"input": [{"image": uri}]}),
        ("/v1/caption", {"image": uri}),
    ):
        answer = process.post(route, body)
        assert answer.status == status, (route, answer.body)
        assert answer.json()["error"]["message"].count("\n") == 0
    query = {"collection": "others", "filter": f'content == "{content_id(data)}"'}
    assert process.post("/v1/search", query).json()["hits"] == []


def test_a_polyglot_is_an_image_and_nothing_else(process: ServerProcess) -> None:
    stream = io.BytesIO(jpeg())
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("index.html", "<script>alert(1)</script>")
    data = stream.getvalue()
    added = process.post("/v1/items", {"image": data_uri(data), "collection": "others"})
    assert added.status == 201, added.body
    original = process.get(added.json()["original"])
    assert (original.body, original.headers["content-type"]) == (data, "image/jpeg")
    assert original.headers["x-content-type-options"] == "nosniff"
    assert process.get(added.json()["thumbnail"]).headers["content-type"] == "image/jpeg"
    id = added.json()["id"]
    assert process.request("DELETE", f"/v1/items/{id}?collection=others").status == 200


@pytest.mark.parametrize(
    ("route", "body", "statuses"),
    [
        ("/v1/search", {"text": "x" * 1_000_000}, {422}),
        ("/v1/search", {"text": "\0\u202e\x1b[31m\U0001f600"}, {200}),
        ("/v1/embeddings", {"input": "x " * 500_000}, {200}),
        ("/v1/caption", {"image": data_uri(image_bytes(1)), "prompt": "x" * 100_000}, {422}),
        ("/v1/items", {"image": data_uri(image_bytes(2)), "caption": "x" * 100_000}, {422}),
        ("/v1/items", {"image": data_uri(image_bytes(2)), "tags": ["x" * 100_000]}, {400, 422}),
        ("/v1/search", {"text": "cat", "filter": "(" * 10_000}, {400}),
        ("/v1/search", {"text": "cat", "filter": "id in [" + "'a'," * 3_000 + "'a']"}, {200}),
    ],
)
def test_huge_and_strange_texts_have_an_answer(
    process: ServerProcess, route: str, body: dict[str, object], statuses: set[int]
) -> None:
    answer = process.post(route, body)
    assert answer.status in statuses, answer.body[:500]


def test_a_filter_that_cannot_be_evaluated_is_400(process: ServerProcess) -> None:
    filter = "width > " + "+".join(["1"] * 8_000)
    (first, *_) = process.post("/v1/search", {}).json()["hits"]
    for route, body in (
        ("search", {}),
        ("search", {"text": "a car"}),
        ("search", {"text": "a car", "hybrid": True}),
        ("search", {"id": first["id"]}),
        ("recommend", {"positive": [{"id": first["id"]}]}),
        ("facets", {}),
    ):
        answer = process.post(f"/v1/{route}", {**body, "filter": filter})
        assert answer.status == 400, (route, body, answer.body[:500])
        assert "the filter has an error at character" in answer.json()["error"]["message"]
        assert len(answer.body) < 1_000


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\\ud800"}',
        b'{"text": "cat", "filter": "\\ud800"}',
        b'{"text": "cat", "where": [{"field": "album", "value": "\\udfff"}]}',
        b'{"text": "cat", "where": [{"field": "metadata.\\ud800", "value": 1}]}',
        b'{"id": "\\ud800"}',
        b'{"text": NaN}',
        b'{"text": "cat", "min_score": 1e999}',
        b'{"text": "cat", "limit": 1' + b"0" * 5_000 + b"}",
        b"[" * 100_000,
        b"{",
        b"",
        b"\xff\xfe",
        b"null",
    ],
    ids=range(13),
)
def test_what_is_no_request_is_the_fault_of_the_client(process: ServerProcess, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = process.request("POST", "/v1/search", body, headers)
    assert answer.status in (400, 422), answer.body[:500]
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("field", ["caption", "album", "name", "tags", "metadata"])
def test_characters_that_cannot_be_stored_are_rejected(process: ServerProcess, field: str) -> None:
    value = {"tags": '["\\ud800"]', "metadata": '{"\\ud800": "\\ud800"}'}.get(field, '"\\ud800"')
    image = json.dumps(data_uri(image_bytes(3)))
    body = f'{{"image": {image}, "collection": "others", "{field}": {value}}}'.encode()
    answer = process.request("POST", "/v1/items", body, {"Content-Type": "application/json"})
    assert answer.status in (400, 422), answer.body[:500]


@pytest.mark.parametrize(
    "target",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/scripts/../../../../../etc/passwd",
        "/v1/items/../../../../etc/passwd",
        "/v1/items//etc/passwd/original",
        "/v1/items/%2Fetc%2Fpasswd/original",
        "/v1/items/..%2F..%2F..%2Fetc%2Fpasswd/thumbnail",
        "/v1/items/%00/original",
        "/v1/items/x/original?collection=..%2F..%2Fetc",
        "/etc/passwd%00.png",
    ],
)
def test_no_path_leaves_the_collection(process: ServerProcess, target: str) -> None:
    answer = process.get(target)
    assert answer.status in (400, 404, 422), answer.body[:200]
    assert b"root:" not in answer.body


def test_a_filter_selects_within_the_collection_only(process: ServerProcess) -> None:
    (own,) = process.post("/v1/search", {"collection": "others"}).json()["hits"]
    for filter in ('id != ""', 'path like "%"', f'id == "{own["id"]}"', 'id == "" or 1 == 1'):
        answer = process.post("/v1/search", {"text": "a car", "filter": filter, "limit": 100})
        assert answer.status in (200, 400), answer.body
        found = {hit["id"] for hit in answer.json().get("hits", [])}
        assert own["id"] not in found
    for value in ('" or "" == "', "'; drop", "\\", '"]}'):
        body = {"text": "a car", "where": [{"field": "album", "value": value}]}
        answer = process.post("/v1/search", body)
        assert (answer.status, answer.json()["hits"]) == (200, [])


SMUGGLED = b"GET /v1/collections HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 60\r\n",
        b"Content-Length: 4, 60\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: -4\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: 4\r\n Transfer-Encoding: chunked\r\n",
    ],
    ids=range(10),
)
def test_a_request_of_two_lengths_is_rejected_and_hides_no_other(
    process: ServerProcess, headers: bytes
) -> None:
    received = process.exchange(SEARCH_HEAD + headers + b"\r\n0\r\n\r\n" + SMUGGLED)
    assert received.count(b"HTTP/1.1 ") == 1, received
    assert received.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")), received
    assert b"embed_dim" not in received


def test_an_image_that_is_no_base64_is_400(process: ServerProcess) -> None:
    broken = base64.b64encode(image_bytes(1)).decode()[:-3] + "?"
    for image in (broken, "file:///etc/passwd", "http://169.254.169.254/", "data:,x", "../x.png"):
        answer = process.post("/v1/search", {"image": image})
        assert answer.status == 400, answer.body


def test_the_service_listens_at_no_other_port(process: ServerProcess) -> None:
    pid = process.process.pid
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
    is_listening = "0A"
    ports = {
        f"socket:[{fields[9]}]": int(fields[1].rpartition(":")[2], 16)
        for fields in sockets
        if fields[3] == is_listening
    }
    links = set()
    for each in (pid, *child_processes(pid, "")):
        for link in Path(f"/proc/{each}/fd").iterdir():
            with suppress(OSError):
                links.add(os.readlink(link))
    assert {ports[link] for link in links & ports.keys()} == {process.address[1]}
