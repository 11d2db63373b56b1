"""What a table may name: public addresses and local files, nothing of this machine's services."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sources.annotated import AnnotatedSample, AnnotatedSource
from coca.data.sources.factory import open_source
from coca.data.sources.table_source import ManifestConfig
from coca.data.storage.url_policy import Reach
from range_server import Serve
from tiny_data import image_bytes

NAMES = {
    "public.example": ["93.184.216.34", "2606:2800:220:1::1"],
    "inside.example": ["10.1.2.3"],
    "both.example": ["93.184.216.34", "127.0.0.1"],
    "localhost": ["127.0.0.1", "::1"],
    "2130706433": ["127.0.0.1"],
    "0x7f.1": ["127.0.0.1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network in which these names resolve."""

    def resolve(host: str, *args: Any, **options: Any) -> list[Any]:
        if host not in NAMES:
            raise socket.gaierror("unknown")
        return [(0, 0, 0, "", (address, 0)) for address in NAMES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def allows(reach: Reach, path: str) -> bool:
    try:
        reach.check(path)
    except DataError as error:
        return error.reason != "not_allowed"
    return True


@pytest.mark.parametrize(
    "path",
    [
        "photos/a.png",
        "/data/a.png",
        "s3://bucket/a 1.png",
        "gs://bucket/deep/a.png",
        "https://public.example/a.png",
        "http://public.example:8080/a.png?size=3",
        "https://93.184.216.34/a.png",
        "https://nowhere.example/a.png",
    ],
)
def test_local_files_and_public_addresses_are_open_to_a_local_table(path: str) -> None:
    assert allows(Reach("m.csv"), path)


REFUSED = [
    "file:///etc/passwd",
    "local:///etc/passwd",
    "memory://a/b.png",
    "simplecache::file:///etc/passwd",
    "sftp://public.example/a.png",
    "http://127.0.0.1/a.png",
    "http://127.0.0.1:8000/a.png",
    "http://127.1.2.3/a.png",
    "http://localhost/a.png",
    "http://LOCALHOST./a.png",
    "http://api.localhost/a.png",
    "http://0.0.0.0/a.png",
    "http://[::1]/a.png",
    "http://[::]/a.png",
    "http://[::ffff:127.0.0.1]/a.png",
    "http://[fe80::1%25eth0]/a.png",
    "http://[2002:7f00:0001::]/a.png",
    "http://10.0.0.5/a.png",
    "http://192.168.1.1/a.png",
    "http://100.64.0.1/a.png",
    "http://169.254.169.254/latest/meta-data",
    "http://224.0.0.1/a.png",
    "http://2130706433/a.png",
    "http://0x7f.1/a.png",
    "http://017700000001/a.png",
    "http://inside.example/a.png",
    "http://both.example/a.png",
    "http://public.example@127.0.0.1/a.png",
    "http://127.0.0.1\\@public.example/a.png",
    "http://%31%32%37.0.0.1/a.png",
    "http://\u24ea.0.0.0/a.png",
    "http:// 127.0.0.1/a.png",
    "http://public.example/a 1.png",
    "http://[::1/a.png",
    "http://public.example:99999/a.png",
    "http:///a.png",
]


@pytest.mark.parametrize("path", REFUSED)
def test_addresses_of_this_machine_and_its_network_are_refused(path: str) -> None:
    for table in ("m.csv", "https://public.example/m.csv"):
        assert not allows(Reach(table), path), table


def test_a_remote_table_reads_from_its_own_host_and_no_local_files() -> None:
    reach = Reach("http://127.0.0.1:8000/sets/m.csv")
    assert allows(reach, "http://127.0.0.1:8000/sets/a.png")
    assert not allows(reach, "http://127.0.0.1:8001/sets/a.png")
    assert not allows(reach, "https://127.0.0.1:8000/sets/a.png")
    assert not allows(reach, "/etc/passwd")
    assert not allows(reach, "file:///etc/passwd")


@pytest.mark.parametrize(
    ("allowed", "path", "right"),
    [
        ("http://127.0.0.1:8000/sets/", "http://127.0.0.1:8000/sets/a.png", True),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/a.png", True),
        ("http://127.0.0.1:8000", "http://127.0.0.1:80001/a.png", False),
        ("http://127.0.0.1", "http://127.0.0.1:8000/a.png", False),
        ("http://127.0.0.1:8000/sets", "http://127.0.0.1:8000/sets/../a.png", False),
        ("http://127.0.0.1:8000/sets", "http://127.0.0.1:8000/sets/%2E%2e/a.png", False),
        ("http://127.0.0.1:8000/sets", "http://127.0.0.1:8000/sets2/a.png", False),
        ("http://[::1]:8000/", "http://[::1]:8000/a.png", True),
        ("file:///data", "file:///data/a.png", True),
        ("file:///data", "file:///etc/passwd", False),
        ("file:///my data", "file:///my data/a 1.png", True),
        ("file:///my data", "file:///my data/.. /a.png", False),
        ("file:///data", "file:///data/a\n.png", False),
        ("/data", "/data/a.png", True),
        ("/data", "/data/../etc/passwd", False),
    ],
)
def test_what_is_allowed_is_open_as_far_as_it_reaches(allowed: str, path: str, right: bool) -> None:
    assert allows(Reach("https://public.example/m.csv", [allowed]), path) is right


def test_a_row_that_names_this_machine_is_a_bad_sample_unless_allowed(
    tmp_path: Path, serve: Serve
) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes(0))
    (tmp_path / "b c.png").write_bytes(image_bytes(0))
    server = serve(tmp_path)
    table = tmp_path / "m.jsonl"
    urls = [f"{server.url}/a.png", f"file://{tmp_path}/b c.png", "a.png"]
    table.write_text("".join(json.dumps({"image": url}) + "\n" for url in urls))
    source = open_source(ManifestConfig(path=str(table)))
    results = source.read_many(range(3))
    assert [getattr(one, "reason", "") for one in results] == ["not_allowed", "not_allowed", ""]
    assert server.seen.total() == 0
    assert "allow it by read_from" in str(results[0])
    allowed = (server.url, f"file://{tmp_path}")
    source = open_source(ManifestConfig(path=str(table), read_from=allowed))
    assert [source.read(row).image for row in range(3)] == [image_bytes(0)] * 3


def test_a_list_of_a_published_format_names_no_urls() -> None:
    source = AnnotatedSource(
        [AnnotatedSample("a", "http://127.0.0.1/a.png")], images="", fingerprint=""
    )
    with pytest.raises(DataError, match="is a URL") as caught:
        source.read(0)
    assert caught.value.reason == "not_allowed"
