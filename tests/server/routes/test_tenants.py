"""Forms with an image file, as `curl -F` sends them."""

import pytest
from fastapi.testclient import TestClient

from server_process import data_uri
from tiny_data import image_bytes

PNG = ("cat.png", image_bytes(500), "image/png")


@pytest.mark.parametrize("field", ["image", "file"])
def test_an_image_file_is_a_query(client: TestClient, field: str) -> None:
    found = client.post("/v1/search", files={field: PNG}, data={"limit": "2", "hybrid": "false"})
    assert found.status_code == 200, found.text
    expected = client.post("/v1/search", json={"image": data_uri(PNG[1]), "limit": 2})
    ids = [hit["id"] for hit in expected.json()["hits"]]
    assert [hit["id"] for hit in found.json()["hits"]] == ids


def test_an_image_file_becomes_an_item(client: TestClient) -> None:
    data = {"collection": "others", "tags": '["12"]', "caption": "12", "time": "7"}
    added = client.post("/v1/items", files={"image": PNG}, data=data)
    assert added.status_code == 201, added.text
    item = added.json()
    assert (item["tags"], item["caption"], item["time"]) == (["12"], "12", 7)
    assert item["metadata"] == {"name": "cat.png"}
    client.delete(f"/v1/items/{item['id']}?collection=others")


@pytest.mark.parametrize(
    ("files", "data", "part"),
    [
        ({"photo": PNG}, {}, "must be the field image"),
        ({"image": PNG}, {"limit": "many"}, "body.limit"),
        ({"image": PNG}, {"top_k": "2"}, "did you mean limit?"),
    ],
)
def test_a_wrong_form_is_a_sentence(
    client: TestClient, files: dict[str, tuple[str, bytes, str]], data: dict[str, str], part: str
) -> None:
    answer = client.post("/v1/search", files=files, data=data)
    assert answer.status_code in (400, 422)
    assert part in answer.json()["error"]["message"]


def test_a_damaged_form_is_the_fault_of_the_client(client: TestClient) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post(
            "/v1/search", content=b"--y\r\nnothing", headers={"Content-Type": kind}
        )
        assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize("limit", ["[" * 100_000, "[" * 100_000 + "]" * 100_000])
def test_a_deeply_nested_field_is_a_sentence(client: TestClient, limit: str) -> None:
    answer = client.post("/v1/search", files={"image": PNG}, data={"limit": limit})
    assert answer.status_code == 422, answer.text
    assert "body.limit" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {f"where{number}": "x" * 900_000 for number in range(2)},
        {"where": "[" + "[]," * 260_000 + "[]]"},
    ],
)
def test_large_fields_are_rejected_before_they_are_parsed(
    client: TestClient, fields: dict[str, str]
) -> None:
    answer = client.post("/v1/search", files={"image": PNG}, data=fields)
    assert answer.status_code == 413, answer.text
