import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from coca.core.errors import ConfigError
from coca.predict.torch_predictor import TorchPredictor
from coca.server.app import create_app
from coca.server.errors import ServiceError
from coca.server.keys import KeyConfig, KeyFile, KeyRing, read_keys, requests_of
from coca.server.service import Service, open_service
from coca.server.settings import ServerSettings
from server_process import data_uri
from tiny_collection import item_ids_of, write_collections
from tiny_data import image_bytes
from tiny_model import answering, text_head

KEYS = {
    "key-of-anna": KeyConfig(name="anna", collections=("pictures",)),
    "key-of-bert": KeyConfig(name="bert", collections=("others",)),
    "key-of-carl": KeyConfig(name="carl", writable=False),
    "key-of-dora": KeyConfig(name="dora", write_quota=len(image_bytes(600)) + 1_000),
    "key-of-eva": KeyConfig(name="eva", collections=("pictures",), quota=1),
    "key-of-admin": KeyConfig(name="admin", admin=True),
    "key-of-gina": KeyConfig(name="gina", quota=13, write_quota=1_000),
    "key-of-finn": KeyConfig(name="finn", expires=datetime.now(UTC) + timedelta(days=1)),
}


@pytest.fixture(scope="module")
def service(uri: str, predictor: TorchPredictor, settings: ServerSettings) -> Iterator[Service]:
    collections = ["pictures", "others"]
    with open_service(uri, collections, settings, model=predictor, keys=KEYS) as opened:
        yield opened


LONG = "key-of" + "-" * 26
"""Start of keys as long as those of a file must be."""


def as_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic key-of-anna"])
def test_a_request_without_a_key_is_401(client: TestClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/collections", "/v1/items/x", "/v1/items/x/thumbnail"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, b"{") for path in ("/v1/search", "/v1/items", "/v1/embeddings")),
        ("/mcp", b"{"),
        ("/v1/search", b"[]," * 600_000),
        ("/v1/items", b" " * 60_000_000),
        ("/mcp", b" " * 60_000_000),
    ],
    ids=range(7),
)
def test_a_body_is_read_after_the_key_was_found(client: TestClient, path: str, body: bytes) -> None:
    if path == "/mcp":
        pytest.importorskip("mcp", reason="the extra mcp is not installed")
    parts = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    headers = {"Content-Type": "application/json", **as_key("wrong-key")}
    assert client.post(path, content=parts, headers=headers).status_code == 401


def test_two_tenants_never_see_each_others_items(
    client: TestClient, uri: str, item_ids: list[str]
) -> None:
    own = {"key-of-anna": item_ids[0], "key-of-bert": item_ids_of(uri, "others", 1)[0]}
    names = {"key-of-anna": "pictures", "key-of-bert": "others"}
    for key, other in (("key-of-anna", "key-of-bert"), ("key-of-bert", "key-of-anna")):
        headers, theirs = as_key(key), own[other]
        found = client.post("/v1/search", json={"limit": 1000}, headers=headers).json()["hits"]
        assert own[key] in {hit["id"] for hit in found}
        assert theirs not in {hit["id"] for hit in found}
        assert {hit["path"] for hit in found} == {None}
        for rest in ("", "/thumbnail", "/original"):
            for query in ("", f"?collection={names[other]}"):
                answer = client.get(f"/v1/items/{theirs}{rest}{query}", headers=headers)
                assert answer.status_code == 404
        named = {"collection": names[other]}
        for path, body in (
            ("search", {"text": "car", **named}),
            ("search", {"id": theirs}),
            ("search", {"positive": [{"id": theirs}]}),
            ("recommend", {"positive": [{"id": theirs}]}),
            ("caption", {"id": theirs}),
            ("classify", {"id": theirs, "labels": ["a"], **named}),
            ("facets", named),
            ("duplicates", named),
        ):
            answer = client.post(f"/v1/{path}", json=body, headers=headers)
            assert answer.status_code == 404, (path, answer.text)
        hidden = {"ids": [theirs], "hidden": True}
        assert client.patch("/v1/items", json=hidden | named, headers=headers).status_code == 404
        affected = {"ids": [], "missing": [theirs]}
        assert client.patch("/v1/items", json=hidden, headers=headers).json() == affected
        for query in ("", f"?collection={names[other]}"):
            answer = client.delete(f"/v1/items/{theirs}{query}", headers=headers)
            assert answer.status_code == 404
        missing = client.post("/v1/search", json={"collection": "nosuch"}, headers=headers)
        there = client.post("/v1/search", json=named, headers=headers)
        assert there.text.replace(names[other], "nosuch") == missing.text


def test_a_key_that_may_only_read_cannot_write(client: TestClient, item_ids: list[str]) -> None:
    headers = as_key("key-of-carl")
    listed = client.get("/v1/collections", headers=headers).json()
    assert (listed["writable"], listed["capabilities"]) == (False, ["caption"])
    url = f"/v1/items/{item_ids[0]}"
    assert client.delete(url, headers=headers).status_code == 403
    assert client.patch(url, json={}, headers=headers).status_code == 403
    assert client.get(url, headers=headers).status_code == 200


def test_a_rate_refills_and_a_quota_ends_with_the_day() -> None:
    now = [1_000_000.0]
    config = KeyConfig(name="a", rate=2.0, quota=5)
    ring = KeyRing({"key-of-anna": config}, clock=lambda: now[0])
    for _ in range(2):
        ring.count(config)
    with pytest.raises(ServiceError, match="2 requests per second") as caught:
        ring.count(config)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    now[0] += 1
    for _ in range(2):
        ring.count(config)
    now[0] += 1
    ring.count(config)
    with pytest.raises(ServiceError, match="5 requests a day") as caught:
        ring.count(config)
    assert caught.value.retry_after_s == 86_400 - 1_000_002 % 86_400
    now[0] += 86_400
    ring.count(config)


def test_a_request_with_much_work_counts_as_several() -> None:
    assert [requests_of(texts=1), requests_of(texts=33), requests_of(images=256)] == [1, 2, 26]
    assert (requests_of(texts=10_000, images=1), requests_of(pairs=10**9)) == (313, 200)
    now = [0.0]
    config = KeyConfig(name="a", rate=2.0, quota=20)
    ring = KeyRing({"key-of-anna": config}, clock=lambda: now[0])
    ring.count(config)
    ring.charge(config, 9)
    with pytest.raises(ServiceError, match="2 requests per second") as caught:
        ring.count(config)
    # One token was left of the burst of two, and nine were taken.
    assert caught.value.retry_after_s == 5
    now[0] += 5
    ring.count(config)
    with pytest.raises(ServiceError, match=r"counts as 11, and the quota of 20 .* has 10 left"):
        ring.charge(config, 10)


def test_work_for_the_model_is_charged_on_every_route(
    client: TestClient, service: Service, item_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[int] = []
    monkeypatch.setattr(service.keys, "charge", lambda key, requests: charged.append(requests))
    id, texts = item_ids[0], ["a cat"] * 65
    for path, body in (
        ("/v1/embeddings", {"input": texts}),
        ("/v1/classify", {"id": id, "labels": [*"abcdefgh"], "templates": ["{}"] * 8}),
        ("/v1/search", {"text": "a car", "rerank": 25}),
        ("/v1/recommend", {"positive": [{"text": "a"}] * 64, "negative": [{"text": "b"}]}),
    ):
        answer = client.post(path, json=body, headers=as_key("key-of-anna"))
        assert answer.status_code == 200, answer.text
    assert charged == [2] * len(charged)
    assert len(charged) == 4


def test_keys_are_read_from_a_list_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    fields = {"name": "anna", "collections": ["a"], "rate": 5, "quota": 9, "writable": False}
    fields |= {"write_quota": 10**6, "admin": True, "expires": "2027-01-31"}
    file.write_text(json.dumps({f"{LONG}-anna": fields}))
    keys = read_keys(f"{LONG}-1, {LONG}-2", file)
    assert [config.name for config in keys.values()] == ["key-1", "key-2", "anna"]
    assert keys[f"{LONG}-anna"] == KeyConfig(
        name="anna",
        collections=("a",),
        rate=5.0,
        quota=9,
        writable=False,
        write_quota=1_000_000,
        admin=True,
        expires=datetime(2027, 1, 31, tzinfo=UTC),
    )


def test_an_expired_key_is_401() -> None:
    now = [0.0]
    config = KeyConfig(name="anna", expires=datetime(1970, 1, 2, tzinfo=UTC))
    ring = KeyRing({"key-of-anna": config}, clock=lambda: now[0])
    assert ring.find("Bearer key-of-anna") is config
    now[0] = 86_400.0
    with pytest.raises(ServiceError, match="expired at 1970-01-02") as caught:
        ring.find("Bearer key-of-anna")
    assert (caught.value.status, caught.value.code) == (401, "expired_api_key")


def test_thumbnails_do_not_count_for_a_quota(client: TestClient, item_ids: list[str]) -> None:
    headers = as_key("key-of-eva")
    url = f"/v1/items/{item_ids[0]}"
    paths = (f"{url}/thumbnail", f"{url}/thumbnail", url, url, f"{url}/thumbnail")
    found = [client.get(path, headers=headers).status_code for path in paths]
    assert found == [200, 200, 200, 429, 200]


def test_a_changed_file_is_read_again_and_a_faulty_one_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    def write(text: str) -> None:
        file.write_text(text.replace("key-of", LONG))
        os.utime(file, ns=(0, time.time_ns()))

    def status(key: str) -> int:
        ring.refresh()
        try:
            ring.find(f"Bearer {LONG}-{key}")
        except ServiceError as error:
            return error.status
        return 200

    def check(key: KeyConfig) -> None:
        if key.collections:
            raise ConfigError("not served")

    write('{"key-of-anna": {"name": "anna", "quota": 1}}')
    source = KeyFile("", file)
    ring = KeyRing(source.keys, check=check, file=source)
    ring.count(ring.find(f"Bearer {LONG}-anna"))
    write('{"key-of-anna": {"name": "anna", "quota": 1}, "key-of-bert": {"name": "bert"}}')
    assert (status("anna"), status("bert")) == (200, 200)
    # What a key has used stays used.
    with pytest.raises(ServiceError, match="quota of 1 requests"):
        ring.count(ring.find(f"Bearer {LONG}-anna"))
    for faulty in ("{", '{"key-of-carl": {"name": "carl", "collections": ["x"]}}'):
        write(faulty)
        assert [status(key) for key in ("anna", "bert")] == [200, 200]
    write('{"key-of-bert": {"name": "bert"}}')
    assert (status("anna"), status("bert")) == (401, 200)
    # Without any key the service stays closed.
    write("{}")
    assert status("bert") == 401
    assert ring


def test_a_running_service_reads_a_changed_file(
    uri: str, predictor: TorchPredictor, settings: ServerSettings, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({f"{LONG}-anna": {"name": "anna"}}))
    source = KeyFile("", file)
    with (
        open_service(uri, ["pictures"], settings, model=predictor, key_file=source) as service,
        TestClient(create_app(service, settings), "http://localhost") as client,
    ):
        file.write_text(json.dumps({f"{LONG}-bert": {"name": "bert"}}))
        for key, status in (("bert", 200), ("anna", 401)):
            deadline_s = time.monotonic() + 60
            while client.get("/metrics", headers=as_key(f"{LONG}-{key}")).status_code != status:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)


def test_a_key_is_found_as_fast_among_thousands() -> None:
    def seconds(count: int) -> float:
        """The shortest time of many lookups."""
        ring = KeyRing({f"{LONG}-{one}": KeyConfig(name=f"{one}") for one in range(count)})
        times = []
        for _ in range(20):
            began_s = time.perf_counter()
            for _ in range(50):
                ring.find(f"Bearer {LONG}-{count - 1}")
            times.append(time.perf_counter() - began_s)
        return min(times)

    # One after the other, 8,000 take 300 times as long as 2.
    assert seconds(8_000) < 20 * seconds(2)


def test_a_key_of_a_file_may_be_its_digest(tmp_path: Path) -> None:
    file, digest = tmp_path / "keys.json", sha256(f"{LONG}-anna".encode()).hexdigest()
    file.write_text(json.dumps({f"sha256:{digest}": {"name": "anna"}}))
    ring = KeyRing(read_keys("", file))
    assert ring.find(f"Bearer {LONG}-anna").name == "anna"
    for wrong in (f"sha256:{digest}", digest):
        with pytest.raises(ServiceError, match="a valid key is needed"):
            ring.find(f"Bearer {wrong}")


def test_saved_searches_count_for_the_quotas_of_their_key(
    client: TestClient, service: Service
) -> None:
    headers, named = as_key("key-of-gina"), {"collection": "others"}
    for number in range(3):
        answer = client.put(f"/v1/searches/{number}", json={"text": "a"} | named, headers=headers)
        assert answer.status_code == 200
    # Three were saved, and each list searches three times.
    lists = [client.get("/v1/searches", params=named, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in lists] == [200, 200, 429]
    long = {"text": "a", "link": "x" * 4_000} | named
    answer = client.put("/v1/searches/3", json=long, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "write_quota_exceeded")
    for number in range(3):
        client.delete(f"/v1/searches/{number}", params=named, headers=as_key("key-of-bert"))


def test_a_key_sees_the_metrics_of_its_own_requests_only(service: Service) -> None:
    with TestClient(create_app(service, service.settings), "http://localhost") as client:
        for key in ("key-of-anna", "key-of-bert", "key-of-admin"):
            client.post("/v1/search", json={"text": "a car"}, headers=as_key(key))
        client.get("/v1/collections", headers=as_key("wrong-key"))
        anna = client.get("/metrics", headers=as_key("key-of-anna")).text
        admin = client.get("/metrics", headers=as_key("key-of-admin")).text
    assert 'coca_items{collection="pictures"} 6.0' in anna
    assert 'key="anna"' in anna
    for part in ("bert", "others", 'key=""', "coca_waiting"):
        assert part not in anna, part
    for part in ('key="anna"', 'key="bert"', 'status="401"', "others", "coca_waiting"):
        assert part in admin, part


def test_a_write_quota_limits_the_bytes_of_a_day(
    client: TestClient, service: Service, tmp_path: Path
) -> None:
    headers, data = as_key("key-of-dora"), image_bytes(600)
    item = {"image": data_uri(data), "collection": "others"}
    added = client.post("/v1/items", json=item, headers=headers)
    assert added.status_code == 201
    # It is there already, so nothing is written.
    assert client.post("/v1/items", json=item, headers=headers).status_code == 200
    other = {"image": data_uri(image_bytes(601, side=64)), "collection": "others"}
    answer = client.post("/v1/items", json=other, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "write_quota_exceeded")
    assert "retry-after" in answer.headers
    url = f"/v1/items/{added.json()['id']}?collection=others"
    for change, status in (({"add_tags": ["x"]}, 200), ({"caption": "x" * 5_000}, 429)):
        assert client.patch(url, json=change, headers=headers).status_code == status
    assert client.delete(url, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("listed", "content", "part"),
    [
        (LONG[1:], None, "the key of 'key-1' has 31: print a new one with `python"),
        (f"{LONG}\u00fc", None, "printable ASCII"),
        (f"{LONG} anna", None, "no spaces"),
        ("", '{"key-of-anna ": {"name": "anna"}}', "'anna' cannot be sent in a header"),
        ("", '{"key-of-\\u00e5nna": {}}', "printable ASCII"),
        ("", '{"key-of-anna": {"expires": "soon"}}', "a time such as"),
        ("", '{"key-of-anna": {"admin": 1}}', "true or false"),
        ("", '{"key-of-anna": {"write_quota": -1}}', "write_quota must be"),
        ("", "[]", "one JSON object"),
        ("", "{", "cannot be read"),
        ("", "[" * 100_000, "cannot be read"),
        ("", '{"key-of-anna": {"rat": 1}}', "rat = 1 is unknown"),
        ("", '{"key-of-anna": {"rate": 0}}', "rate must be"),
        ("", '{"key-of-anna": {"collections": "a"}}', "collections must be a list, each a text"),
        ("", '{"key-of-anna": {"name": "a"}, "key-of-bert": {"name": "a"}}', "names must differ"),
    ],
)
def test_wrong_keys_are_one_sentence(
    tmp_path: Path, listed: str, content: str | None, part: str
) -> None:
    file = None
    if content is not None:
        file = tmp_path / "keys.json"
        file.write_text(content.replace("key-of", LONG))
    with pytest.raises(ConfigError, match=part):
        read_keys(listed, file)


def test_a_key_of_a_collection_that_is_not_served_is_an_error(
    uri: str, predictor: TorchPredictor, settings: ServerSettings
) -> None:
    keys = {"key-of-anna": KeyConfig(name="anna", collections=("nosuch",))}
    before = {thread for thread in threading.enumerate() if thread.name == "batcher"}
    with (
        pytest.raises(ConfigError, match="not served"),
        open_service(uri, ["pictures"], settings, model=predictor, keys=keys),
    ):
        pass
    # Nothing would end the threads of a service that was not opened.
    assert {thread for thread in threading.enumerate() if thread.name == "batcher"} <= before


def test_an_answer_is_that_of_the_model_and_counts_as_a_request(
    images: list[bytes], settings: ServerSettings, tmp_path: Path
) -> None:
    model = answering(text_head(("yes", "no", "red")))
    uri = write_collections(tmp_path, model, {"pictures": images})
    keys = {"key-of-hans": KeyConfig(name="hans", quota=2)}
    question = {"id": item_ids_of(uri)[0], "question": "what is it?", "limit": 2}
    with (
        open_service(uri, ["pictures"], settings, model=model, keys=keys) as service,
        TestClient(create_app(service, settings), base_url="http://localhost") as client,
    ):
        headers = as_key("key-of-hans")
        answers = [client.post("/v1/answer", json=question, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    (labels,) = model.answer([images[0]], ["what is it?"])
    found = answers[0].json()["answers"]
    assert [one["label"] for one in found] == [one.label for one in labels[:2]]
    assert [one["probability"] for one in found] == pytest.approx(
        [one.probability for one in labels[:2]], abs=1e-5
    )
