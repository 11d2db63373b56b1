from fastapi.testclient import TestClient

from server_process import data_uri
from tiny_data import image_bytes

URL = "/v1/searches"


def test_a_saved_search_counts_what_is_new_until_it_is_looked_at(
    client: TestClient, item_ids: list[str]
) -> None:
    positive = [{"id": item_ids[3]}, {"text": "a cat", "weight": 2.0}]
    marks = {"text": "a red car", "positive": positive, "negative": [{"id": item_ids[4]}]}
    body = {**marks, "where": [{"field": "width", "value": 1, "operator": ">"}], "link": "/?q=x"}
    made = client.put(f"{URL}/red ones", json=body).json()
    assert (made["filter"], made["link"], made["new"]) == ("width > 1", "/?q=x", 0)
    assert client.get(URL).json() == {"collection": "pictures", "searches": [made]}
    added = client.post("/v1/items", json={"image": data_uri(image_bytes(77))}).json()
    assert client.get(URL).json()["searches"][0]["new"] == 1
    assert client.put(f"{URL}/red ones", json=body).json() == made
    assert client.get(URL).json()["searches"] == [made]
    client.delete(f"/v1/items/{added['id']}")
    assert client.get(URL, params={"collection": "others"}).json()["searches"] == []
    assert client.delete(f"{URL}/red ones").status_code == 204


def test_an_image_of_the_client_is_not_saved(client: TestClient, images: list[bytes]) -> None:
    answer = client.put(f"{URL}/mine", json={"positive": [{"image": data_uri(images[0])}]})
    assert answer.status_code == 400
    assert "add the image" in answer.json()["error"]["message"]
    assert client.get(URL).json()["searches"] == []


def test_a_collection_has_a_hundred_at_most(client: TestClient) -> None:
    body = {"text": "a car", "collection": "others"}
    try:
        for number in range(100):
            assert client.put(f"{URL}/{number}", json=body).status_code == 200
        answer = client.put(f"{URL}/one more", json=body)
        assert answer.status_code == 400
        assert "at most 100 are kept" in answer.json()["error"]["message"]
        # Saving one of them again is the next look.
        assert client.put(f"{URL}/7", json=body).status_code == 200
        client.delete(f"{URL}/7", params={"collection": "others"})
        assert client.put(f"{URL}/one more", json=body).status_code == 200
    finally:
        for name in (*range(100), "one more"):
            client.delete(f"{URL}/{name}", params={"collection": "others"})


def test_a_very_large_one_is_not_saved(client: TestClient) -> None:
    marks = [{"text": "x" * 4_000} for _ in range(20)]
    answer = client.put(f"{URL}/large", json={"text": "a car", "positive": marks})
    assert answer.status_code == 400
    assert "at most 65,535 bytes" in answer.json()["error"]["message"]
    assert client.get(URL).json()["searches"] == []
