import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from coca.inference.predictor import Predictor
from coca.search.records import content_id
from coca.server.app import create_app
from coca.server.errors import ServiceError
from coca.server.service import Service, open_service
from coca.server.settings import ServerSettings
from server_process import ids
from tiny_data import image_bytes


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that jobs may index, with one folder for each test."""
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def service(
    uri: str, predictor: Predictor, settings: ServerSettings, allowed: Path
) -> Iterator[Service]:
    collections = ["pictures", "others"]
    with open_service(uri, collections, settings, model=predictor, folders=[allowed]) as opened:
        yield opened


def folder_of(allowed: Path, numbers: range) -> Path:
    folder = allowed / str(numbers.start)
    folder.mkdir()
    for number in numbers:
        (folder / f"{number}.png").write_bytes(image_bytes(number))
    return folder


def start(client: TestClient, folder: Path) -> str:
    body = {"uris": [str(folder)], "collection": "others"}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def wait(client: TestClient, id: str, *, until: set[str]) -> dict[str, object]:
    while True:
        job = client.get(f"/v1/jobs/{id}").json()
        if job["state"] in until:
            return dict(job)


JSON = {"Content-Type": "application/json"}
ENDED = {"done", "failed", "cancelled"}


def test_a_folder_is_indexed_and_found(client: TestClient, allowed: Path) -> None:
    folder = folder_of(allowed, range(400, 403))
    (folder / "broken.png").write_bytes(image_bytes(400)[:60])
    job = wait(client, start(client, folder), until=ENDED)
    assert (job["state"], job["error"]) == ("done", None)
    assert job["result"] == {
        "added": 3,
        "updated": 0,
        "unchanged": 0,
        "duplicates": 0,
        "removed": 0,
        "unreadable": 1,
    }
    added = {content_id(image_bytes(number)) for number in range(400, 403)}
    assert added <= set(ids(client, {"collection": "others"}))
    again = wait(client, start(client, folder), until=ENDED)["result"]
    assert isinstance(again, dict)
    assert (again["added"], again["unchanged"]) == (0, 3)
    newest = client.get("/v1/jobs").json()["jobs"]
    assert [one["result"]["added"] for one in newest[:2]] == [0, 3]


def test_while_a_job_writes_other_writers_wait_and_cancelling_ends_it(
    client: TestClient, service: Service, allowed: Path
) -> None:
    folder = folder_of(allowed, range(410, 413))
    (id, *_) = ids(client, {"collection": "others"})
    item, tags = f"/v1/items/{id}?collection=others", {"add_tags": ["x"]}
    with service.model.exclusive():
        job = start(client, folder)
        wait(client, job, until={"running"})
        busy = client.patch(item, json=tags)
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "indexing")
        assert busy.headers["retry-after"] == "5"
        assert client.patch(f"/v1/items/{ids(client, {})[0]}", json=tags).status_code == 200
        waiting = start(client, folder)
        assert client.delete(f"/v1/jobs/{waiting}").json()["state"] == "cancelled"
        client.delete(f"/v1/jobs/{job}")
    assert wait(client, job, until=ENDED)["state"] == "cancelled"
    assert client.get(f"/v1/jobs/{waiting}").json()["state"] == "cancelled"
    # The next job starts after the cancelled one has ended.
    wait(client, start(client, folder), until=ENDED)
    while (answer := client.patch(item, json=tags)).status_code == 503:
        pass
    assert answer.status_code == 200


def test_other_folders_are_not_read(client: TestClient, allowed: Path, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(image_bytes(420))
    (allowed / "link").symlink_to(tmp_path)
    sibling = f"{allowed}-2"
    for uri in (
        str(tmp_path),
        str(allowed / "link"),
        f"{allowed}/../{tmp_path.name}",
        sibling,
        "/nosuch",
        "relative",
        "https://localhost/x.tar",
        "\0",
    ):
        answer = client.post("/v1/jobs", content=json.dumps({"uris": [uri]}), headers=JSON)
        assert answer.status_code == 403, (uri, answer.text)
    for name in ("nosuch", "x" * 1_000):
        missing = client.post("/v1/jobs", json={"uris": [str(allowed / name)]})
        assert missing.status_code == 404


def test_a_link_inside_an_allowed_folder_serves_no_file_outside(
    client: TestClient, allowed: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_bytes(440))
    (tmp_path / "secret.txt").write_text("the words of a file elsewhere")
    with tarfile.open(tmp_path / "secret.tar", "w") as archive:
        archive.add(tmp_path / "secret.png", "in-a-tar.png")
    folder = folder_of(allowed, range(441, 443))
    (folder / "inside.png").symlink_to(folder / "441.png")
    (folder / "link.png").symlink_to(secret)
    (folder / "link.tar").symlink_to(tmp_path / "secret.tar")
    (folder / "442.txt").symlink_to(tmp_path / "secret.txt")
    job = wait(client, start(client, folder), until=ENDED)
    assert isinstance(job["result"], dict), job
    assert (job["result"]["added"], job["result"]["unreadable"]) == (1, 3)
    hits = client.post("/v1/search", json={"collection": "others", "limit": 1_000}).json()["hits"]
    found = {hit["id"] for hit in hits}
    assert content_id(image_bytes(441)) in found
    assert content_id(image_bytes(440)) not in found
    assert not any("elsewhere" in hit["caption"] for hit in hits)


def test_an_empty_folder_fails_with_a_sentence(client: TestClient, allowed: Path) -> None:
    (allowed / "empty").mkdir()
    job = wait(client, start(client, allowed / "empty"), until=ENDED)
    assert job["state"] == "failed"
    assert "empty" in str(job["error"])


def test_a_key_sees_its_own_jobs_only(client: TestClient, service: Service, allowed: Path) -> None:
    id = start(client, folder_of(allowed, range(430, 431)))
    assert service.jobs.of("another") == []
    with pytest.raises(ServiceError, match="there is no job"):
        service.jobs.get(id, "another")
    assert client.get("/v1/jobs/nosuch").status_code == 404
    wait(client, id, until=ENDED)


def test_without_an_allowed_folder_there_are_no_jobs(
    uri: str, predictor: Predictor, settings: ServerSettings, service: Service
) -> None:
    other = Service([service.collections["pictures"].collection], predictor, settings)
    with TestClient(create_app(other, settings), base_url="http://localhost") as client:
        assert client.get("/v1/jobs").status_code == 404
        assert "/v1/jobs" not in client.get("/openapi.json").json()["paths"]
    other.close()
