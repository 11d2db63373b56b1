"""The session cookie, which reads files and does nothing else, and the ZIP archive."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from fastapi.testclient import TestClient

from coca.predict.torch_predictor import TorchPredictor
from coca.server.app import create_app
from coca.server.errors import ServiceError
from coca.server.keys import SESSION_S, KeyConfig, KeyRing
from coca.server.places import DOWNLOADS
from coca.server.service import Service, open_service
from coca.server.settings import ServerSettings
from server_process import data_uri
from tiny_data import image_bytes

ANNA, BERT, CARL = "key-of-anna", "key-of-bert", "key-of-carl"
KEYS = {
    ANNA: KeyConfig(name="anna", collections=("pictures",)),
    BERT: KeyConfig(name="bert", collections=("others",)),
    CARL: KeyConfig(name="carl", collections=("pictures",), quota=1),
}
COOKIE = "coca_session_"


@pytest.fixture
def keyed(uri: str, predictor: TorchPredictor, settings: ServerSettings) -> Iterator[Service]:
    names = ["pictures", "others"]
    with open_service(uri, names, settings, model=predictor, keys=KEYS) as opened:
        yield opened


@pytest.fixture
def browser(keyed: Service) -> Iterator[Callable[[str], TestClient]]:
    """Open a client that has the cookie of a key, and sends no key."""
    app = create_app(keyed, keyed.settings)
    with TestClient(app, base_url="http://localhost"):

        def opened(key: str) -> TestClient:
            client = TestClient(app, base_url="http://localhost")
            answer = client.post("/v1/session", headers={"Authorization": f"Bearer {key}"})
            assert (answer.status_code, answer.content) == (204, b"")
            return client

        yield opened


def files_of(id: str) -> list[str]:
    return [f"/v1/items/{id}/{part}" for part in ("thumbnail", "original")]


def test_the_cookie_reads_files_and_nothing_else(
    browser: Callable[[str], TestClient], item_ids: list[str]
) -> None:
    client, id = browser(ANNA), item_ids[0]
    for path in files_of(id):
        assert client.get(path).status_code == 200
    # A frame that is not one has no video; the request was accepted.
    assert client.get(f"/v1/items/{id}/video").json()["error"]["code"] == "no_such_video"
    with ZipFile(BytesIO(client.post("/v1/archive", json={"ids": item_ids}).content)) as archive:
        assert len(archive.namelist()) == len(item_ids)
    item = {"image": data_uri(image_bytes(900))}
    assert client.post("/v1/items", json=item).status_code == 401
    assert client.post("/mcp", json={}).status_code in (401, 404)
    opened = set()
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            answer = client.request(method, path.format(id=id, name="mine"), json={})
            if answer.status_code != 401:
                opened.add((method, path))
    files = {("get", f"/v1/items/{{id}}/{part}") for part in ("thumbnail", "original", "video")}
    assert opened == files | {("post", "/v1/archive"), ("get", "/healthz"), ("get", "/readyz")}


def test_without_the_cookie_files_need_the_key(
    browser: Callable[[str], TestClient], item_ids: list[str]
) -> None:
    client = browser(ANNA)
    value = client.cookies[COOKIE]
    until, key, signature = value.split(".")
    longer = f"{int(until) + 1}.{key}.{signature}"
    foreign = KeyRing(KEYS).session(f"Bearer {ANNA}")
    client.cookies.clear()
    paths = files_of(item_ids[0])
    for wrong in ("", "..", "a.b.c", "é", f"{value}0", value[:-1], longer, foreign):
        headers = {b"Cookie": f"{COOKIE}={wrong}".encode()}
        for path in paths:
            assert client.get(path, headers=headers).status_code == 401, wrong
    assert client.get(paths[0]).status_code == 401
    client.cookies[COOKIE] = value
    assert client.get(paths[0]).status_code == 200
    # The cookie does not stand for a wrong key.
    assert client.get(paths[0], headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_the_cookie_reads_the_collections_of_its_key(
    browser: Callable[[str], TestClient], item_ids: list[str]
) -> None:
    client = browser(BERT)
    for path in files_of(item_ids[0]):
        assert client.get(path).status_code == 404
        assert client.get(f"{path}?collection=pictures").status_code == 404
    body = {"ids": item_ids, "collection": "pictures"}
    assert client.post("/v1/archive", json=body).status_code == 404


def test_the_cookie_of_a_removed_or_expired_key_is_401(
    keyed: Service, browser: Callable[[str], TestClient], item_ids: list[str]
) -> None:
    client, path = browser(ANNA), files_of(item_ids[0])[0]
    expired = KEYS[ANNA].replace(expires=datetime.now(UTC) - timedelta(seconds=1))
    for left in ({ANNA: expired}, {"another-key": KEYS[ANNA]}, {BERT: KEYS[BERT]}):
        keyed.keys._set(KEYS)
        assert client.get(path).status_code == 200
        keyed.keys._set(left)
        assert client.get(path).status_code == 401


def test_the_cookie_ends_after_its_time() -> None:
    now = [1_000.0]
    ring = KeyRing(KEYS, clock=lambda: now[0])
    value = ring.session(f"Bearer {ANNA}")
    now[0] += SESSION_S - 1
    assert ring.find_session(value).name == "anna"
    now[0] += 1
    with pytest.raises(ServiceError, match="session has ended"):
        ring.find_session(value)


def test_the_cookie_is_of_this_site_and_folder_alone(
    browser: Callable[[str], TestClient], item_ids: list[str]
) -> None:
    client, key = browser(ANNA), {"Authorization": f"Bearer {ANNA}"}
    for origin, secure in (("http://localhost", False), ("https://photos.example", True)):
        origins = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        header = client.post("/v1/session", headers=key | origins).headers["set-cookie"]
        fields = {field.strip().lower() for field in header.split(";")[1:]}
        assert fields == {"httponly", "samesite=strict", *(["secure"] if secure else [])}
        assert ANNA not in header
    client = browser(ANNA)
    # A page of another port is the same site to a browser.
    for site, status in (("same-origin", 200), ("none", 200), ("same-site", 403)):
        answer = client.get(files_of(item_ids[0])[0], headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status


def test_a_service_without_keys_sets_no_cookie(client: TestClient) -> None:
    answer = client.post("/v1/session")
    assert (answer.status_code, "set-cookie" in answer.headers) == (204, False)


def test_an_archive_has_originals_with_dates_and_names_what_is_missing(
    client: TestClient, service: Service, item_ids: list[str], images: list[bytes]
) -> None:
    added = client.post(
        "/v1/items",
        json={"image": data_uri(image_bytes(901)), "name": "me.png", "time": 86_400 * 9_000},
    ).json()
    gone = client.post(
        "/v1/items", json={"image": data_uri(image_bytes(902)), "name": "no.png"}
    ).json()
    Path(service.collections["pictures"].record(gone["id"]).path).unlink()
    wanted = [added["id"], *item_ids[:2], "0" * 32, gone["id"], added["id"]]
    # As a form of a page sends it.
    parts = {"ids": (None, json.dumps(wanted)), "collection": (None, "pictures")}
    answer = client.post("/v1/archive", files=parts)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="images.zip"'
    with ZipFile(BytesIO(answer.content)) as archive:
        names = archive.namelist()
        assert (names[0], names[-1], len(names)) == ("me.png", "missing.txt", 4)
        assert archive.read("me.png") == image_bytes(901)
        assert archive.infolist()[0].date_time == (1994, 8, 23, 0, 0, 0)
        assert {archive.read(name) for name in names[1:3]} == set(images[:2])
        assert archive.read("missing.txt").decode() == f"{'0' * 32}\nno.png\n"
    for one in (added, gone):
        client.delete(f"/v1/items/{one['id']}")


def test_an_archive_counts_for_the_quota(
    browser: Callable[[str], TestClient], keyed: Service, item_ids: list[str]
) -> None:
    client = browser(ANNA)
    client.cookies[COOKIE] = keyed.keys.session(f"Bearer {CARL}")
    ids = [*item_ids, *(f"{n:032}" for n in range(20))]
    assert client.post("/v1/archive", json={"ids": ids}).status_code == 429
    for wrong in ([], [""], ["a"] * 10_001, "a"):
        assert browser(ANNA).post("/v1/archive", json={"ids": wrong}).status_code == 422


def test_a_key_reads_a_few_archives_at_a_time(keyed: Service) -> None:
    places, key = keyed.places, KEYS[ANNA]
    held = [places.download(key) for _ in range(DOWNLOADS)]
    for one in held:
        one.__enter__()
    with pytest.raises(ServiceError, match="archives"), places.download(key):
        pass
    with places.download(KEYS[BERT]):
        pass
    held[0].__exit__(None, None, None)
    with places.download(key):
        pass
