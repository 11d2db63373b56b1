import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from coca.core.errors import StorageError
from coca.core.files.local_files import file_etag
from coca.predict.torch_predictor import TorchPredictor
from coca.search.filters import has_any_tag, where
from coca.search.records import (
    CONTENT,
    FAVOURITE,
    READ_TEXT,
    SECONDS,
    content_id,
    record_id,
    series_etag,
    series_path,
)
from coca.server.app import create_app
from coca.server.images import uploads
from coca.server.service import Service
from coca.server.settings import ServerSettings
from server_process import data_uri, ids
from tiny_data import image_bytes


def new(number: int, **fields: object) -> dict[str, object]:
    return {"image": data_uri(image_bytes(number)), "collection": "others", **fields}


def test_an_item_is_added_found_changed_and_deleted(client: TestClient, service: Service) -> None:
    fields = {"year": 1, "captions": ["a car", "a red car"]}
    body = new(200, caption="a red car", tags=["x"], metadata=fields, name="car.png")
    added = client.post("/v1/items", json=body)
    assert added.status_code == 201, added.text
    item = added.json()
    url = f"/v1/items/{item['id']}?collection=others"
    assert client.get(url).json() == item
    assert client.get(item["original"]).content == image_bytes(200)
    assert ids(client, {"image": body["image"], "collection": "others"})[0] == item["id"]
    again = client.post("/v1/items", json=body)
    assert (again.status_code, again.json()) == (200, item)
    assert item["captions"] == ["a red car", "a car"]
    gone = dict.fromkeys(fields)
    change = {"add_tags": ["y"], "remove_tags": ["x"], "caption": "a cat", "metadata": gone}
    changed = client.patch(url, json=change).json()
    assert (changed["tags"], changed["caption"]) == (["y"], "a cat")
    assert changed["metadata"] == {"name": "car.png"}
    path = Path(service.collections["others"].record(item["id"]).path)
    assert item["id"] == record_id(str(path))
    assert path.read_bytes() == image_bytes(200)
    assert client.delete(url).json() == {"ids": [item["id"]], "missing": []}
    assert client.get(url).status_code == 404
    assert not path.exists()


def test_a_change_of_an_item_that_others_changed_is_refused(client: TestClient) -> None:
    added = client.post("/v1/items", json=new(230, caption="one"))
    url, first = f"/v1/items/{added.json()['id']}?collection=others", added.headers["ETag"]
    assert client.get(url).headers["ETag"] == client.get(url).headers["ETag"] == first

    def change(etag: str, **fields: Any) -> Any:
        return client.patch(url, json=fields, headers={"If-Match": etag})

    changed = change(first, caption="two")
    second = changed.headers["ETag"]
    assert (changed.status_code, client.get(url).headers["ETag"]) == (200, second)
    assert second != first
    refused = change(first, caption="three")
    assert (refused.status_code, refused.json()["error"]["code"]) == (412, "item_changed")
    assert change(f"W/{second}", caption="three").status_code == 412
    assert client.get(url).json()["caption"] == "two"
    assert change(f"{first}, {second}", tags=["x"]).status_code == 200
    assert change("*", tags=["y"]).status_code == 200
    with ThreadPoolExecutor(8) as pool:
        etag = client.get(url).headers["ETag"]
        codes = list(pool.map(lambda n: change(etag, time=n).status_code, range(8)))
    assert sorted(codes) == [200, *[412] * 7]
    client.delete(url)
    assert change("*", tags=["z"]).status_code == 404


def test_a_file_stays_while_an_item_refers_to_it(client: TestClient, service: Service) -> None:
    id = client.post("/v1/items", json=new(201)).json()["id"]
    others, pictures = (service.collections[name].collection for name in ("others", "pictures"))
    (record,) = others.get([id]).values()
    others.upsert([replace(record, id="own")])
    pictures.upsert([record])
    for item, collection in ((id, "others"), ("own", "others"), (id, "pictures")):
        assert Path(record.path).exists()
        assert client.delete(f"/v1/items/{item}?collection={collection}").status_code == 200
    assert not Path(record.path).exists()


def test_an_upload_has_what_the_photo_carries(client: TestClient) -> None:
    photo = Path(__file__).parents[2] / "search" / "ingest" / "photos" / "iphone.jpg"
    body = {"image": data_uri(photo.read_bytes()), "collection": "others", "name": "a.jpg"}
    item = client.post("/v1/items", json=body | {"metadata": {"lens": "mine"}}).json()
    assert item["taken_at"] == "2024-02-29T23:59:59-08:00"
    assert (item["metadata"]["latitude"], item["metadata"]["lens"]) == (37.8199, "mine")
    where = [{"field": "metadata.camera", "value": "Apple iPhone 15 Pro"}]
    found = client.post("/v1/search", json={"collection": "others", "where": where}).json()
    assert [hit["id"] for hit in found["hits"]] == [item["id"]]
    # The day is that of the clock at the place; in UTC it was the next one.
    for day, there in (("2024-02-29", found["hits"]), ("2024-03-01", [])):
        answer = client.post("/v1/search", json={"collection": "others", "during": day}).json()
        assert answer["hits"] == there
    asked = {"collection": "others", "fields": ["metadata.iso"]}
    facets = client.post("/v1/facets", json=asked).json()["facets"]
    assert facets[0]["values"] == [{"value": 80, "count": 1}]
    client.delete(f"/v1/items/{item['id']}?collection=others")


def test_the_text_of_an_upload_is_read_and_found(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter(["INVOICE 2024-118", ""])

    def read(images: Sequence[Any]) -> list[str]:
        # Decoded by the process that untrusted images are decoded in.
        assert [image.dtype for image in images] == ["uint8"]
        return [next(texts)]

    monkeypatch.setattr(service, "text_reader", read)
    items = [client.post("/v1/items", json=new(number)).json() for number in (237, 238)]
    assert [item["metadata"] for item in items] == [{"ocr_text": "INVOICE 2024-118"}, {}]
    found = ids(client, {"collection": "others", "text": "invoice 118", "limit": 1})
    assert found == [items[0]["id"]]
    stored = service.collections["others"].collection.get([item["id"] for item in items])
    assert all(record.origin.read & READ_TEXT for record in stored.values())
    for item in items:
        client.delete(f"/v1/items/{item['id']}?collection=others")


def test_a_hidden_item_is_listed_apart_and_found_by_nothing(client: TestClient) -> None:
    before = set(ids(client, {"collection": "others"}))
    item = client.post("/v1/items", json=new(241, caption="a cat", tags=["x"])).json()
    other = client.post("/v1/items", json=new(242)).json()
    url, id = f"/v1/items/{item['id']}?collection=others", item["id"]
    assert client.patch(url, json={"hidden": True}).json() == item | {"hidden": True}
    shown = {*before, other["id"]}
    for query in ({}, {"text": "a cat"}, {"text": "a cat", "filter": "width > 0"}):
        assert set(ids(client, {"collection": "others", **query})) == shown
    scope = {"collection": "others"}
    assert ids(client, scope | {"hidden": True}) == [id]
    refused = client.post("/v1/search", json=scope | {"hidden": True, "text": "a cat"})
    assert "it takes no query" in refused.json()["error"]["message"]
    facets = client.post("/v1/facets", json=scope).json()
    assert facets["total"] == len(shown)
    assert "metadata.hidden" not in {facet["field"] for facet in facets["facets"]}
    wanted = scope | {"positive": [{"text": "a cat"}]}
    assert id not in {one["id"] for one in client.post("/v1/recommend", json=wanted).json()["hits"]}
    alike = client.post("/v1/duplicates", json=scope).json()["groups"]
    assert id not in {one["id"] for group in alike for one in group["items"]}
    both = scope | {"ids": [id, other["id"]], "hidden": True}
    assert client.patch("/v1/items", json=both).json()["ids"] == [id, other["id"]]
    assert set(ids(client, scope)) == before
    assert client.patch("/v1/items", json=both | {"hidden": False}).status_code == 200
    assert client.get(url).json() == item
    # An image that is added again is shown again.
    assert client.patch(url, json={"hidden": True}).json()["hidden"] is True
    assert client.post("/v1/items", json=new(241)).json() == item
    assert set(ids(client, scope)) == {*shown, id}
    for one in (id, other["id"]):
        client.delete(f"/v1/items/{one}?collection=others")


def test_an_upload_without_a_time_has_that_of_its_upload(client: TestClient) -> None:
    before = int(time.time())
    items = [
        client.post("/v1/items", json=new(260 + n, name="a cat.png", **fields)).json()
        for n, fields in enumerate([{}, {"time": 7}])
    ]
    added, taken = items
    assert (added["date_source"], added["taken_at"]) == ("added", None)
    assert before <= added["time"] <= time.time()
    assert (taken["date_source"], taken["taken_at"]) == ("taken", "1970-01-01T00:00:07")
    listed = client.post("/v1/search", json={"collection": "others"}).json()["hits"]
    assert (listed[0]["id"], listed[0]["name"]) == (added["id"], "a cat.png")
    body = client.post("/v1/facets", json={"collection": "others"}).json()
    assert "metadata.name" not in {facet["field"] for facet in body["facets"]}
    url = f"/v1/items/{added['id']}?collection=others"
    assert client.patch(url, json={"time": 8}).json()["date_source"] == "taken"
    for item in items:
        client.delete(f"/v1/items/{item['id']}?collection=others")


def test_a_frame_has_its_video_until_the_file_changes(
    client: TestClient, service: Service, tmp_path: Path
) -> None:
    film = tmp_path / "a film.mp4"
    film.write_bytes(bytes(range(100)))
    collection = service.collections["others"].collection
    record = next(iter(collection.get(collection.ids()).values()))
    origin = replace(record.origin, etag=series_etag(file_etag(film), 5.0))
    path = series_path(str(film), 2.5)
    frame = replace(record, id="frame", path=path, metadata={SECONDS: 2.5}, origin=origin)
    collection.upsert([frame])
    item = client.get("/v1/items/frame?collection=others").json()
    url, _, moment = item["video"].partition("#")
    assert moment == "t=2.5"
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["Content-Type"] == "video/mp4"
    film.write_bytes(b"another film")
    assert client.get(url).json()["error"]["code"] == "no_such_video"
    other = client.get(f"/v1/items/{record.id}?collection=others").json()
    assert other["video"] is None
    assert client.get(f"/v1/items/{record.id}/video?collection=others").status_code == 404
    collection.delete(["frame"])


def test_a_video_is_one_item_that_is_changed_as_a_whole(
    client: TestClient, service: Service
) -> None:
    collection = service.collections["others"].collection
    photo = next(iter(collection.get(collection.ids()).values()))
    frames = [
        replace(
            photo,
            id=f"{name} {moment}",
            path=series_path(f"/trip/{name}.mp4", float(moment)),
            content=f"{name} {moment}",
            metadata={SECONDS: float(moment)},
            album="/trip",
        )
        for name in "ab"
        for moment in range(12)
    ]
    collection.upsert(frames)

    def found(**body: object) -> list[str]:
        return ids(client, {"collection": "others", **body})

    def names(found: list[str]) -> list[str]:
        return sorted(id.split()[0] for id in found)

    for query in ({}, {"text": "a photo"}):
        assert names(found(group_by="video", **query)) == sorted(["a", "b", photo.id])
        counted = {"collection": "others", "group_by": "video", **query}
        assert client.post("/v1/facets", json=counted).json()["total"] == 3
        assert len(found(**query)) > 20
        assert sorted(found(video="b 3", **query)) == sorted(f"b {n}" for n in range(12))
        assert found(video=photo.id, **query) == [photo.id]
    late = found(group_by="video", filter='metadata["seconds"] == 7')
    assert sorted(late) == ["a 7", "b 7"]
    change = {"collection": "others", "ids": ["a 5", photo.id], "videos": True}
    client.patch("/v1/items", json={**change, "add_tags": ["sea"]})
    tagged = collection.ids(has_any_tag(["sea"]))
    assert sorted(tagged) == sorted([photo.id, *(f"a {n}" for n in range(12))])
    client.patch("/v1/items", json={**change, "ids": ["a 5"], "hidden": True})
    assert names(found(group_by="video")) == sorted(["b", photo.id])
    assert names(found(group_by="video", hidden=True)) == ["a"]
    client.patch("/v1/items", json={"collection": "others", "ids": ["b 1"], "hidden": True})
    assert len(found(video="b 0")) == 11
    assert client.post("/v1/search", json={"video": "nothing"}).status_code == 404
    collection.delete([frame.id for frame in frames])
    collection.upsert([photo])


def test_changes_at_the_same_time_are_all_kept(client: TestClient) -> None:
    url = f"/v1/items/{client.post('/v1/items', json=new(231)).json()['id']}?collection=others"
    tags = [f"tag{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        codes = pool.map(lambda tag: client.patch(url, json={"add_tags": [tag]}).status_code, tags)
        assert set(codes) == {200}
    assert sorted(client.get(url).json()["tags"]) == sorted(tags)
    client.delete(url)


def test_an_item_shows_whose_its_caption_and_its_file_are(
    client: TestClient, service: Service, predictor: TorchPredictor
) -> None:
    def check_vector(item: Any) -> None:
        vector = service.collections["others"].record(item["id"]).text_vector
        assert vector == pytest.approx(predictor.embed_texts([item["caption"]])[0], abs=1e-5)

    (indexed,) = client.post("/v1/search", json={"collection": "others"}).json()["hits"]
    item = client.post("/v1/items", json=new(232, generate_caption=True)).json()
    assert (indexed["uploaded"], item["uploaded"]) == (False, True)
    url = f"/v1/items/{item['id']}?collection=others"
    change = {"caption": "a cat", "add_tags": ["x", "favourite"], "metadata": {"people": ["Ben"]}}
    changed = client.patch(url, json=change).json()
    assert (item["caption_source"], changed["caption_source"]) == ("model", "given")
    before = {"caption": item["caption"], "tags": [], "metadata.people": None}
    assert (item["unedited"], changed["unedited"]) == ({}, before)
    check_vector(changed)
    found = client.post("/v1/search", json={"collection": "others", "text": "a cat"}).json()
    assert (found["hits"][0]["id"], found["hits"][0]["unedited"]) == (item["id"], before)
    # Set again after its undo, the caption keeps its vector.
    assert client.patch(url, json={"undo": ["caption"], "caption": "a cat"}).json() == changed
    check_vector(changed)
    restored = client.patch(url, json={"undo": list(before)}).json()
    assert restored == item | {"tags": ["favourite"]}
    check_vector(restored)
    client.delete(url)


COMPARED = [
    {"filter": 'path like "/%"'},
    {"filter": '(width > 0) and "" != path'},
    {"where": [{"field": "path", "operator": ">=", "value": "/"}]},
]


@pytest.mark.parametrize("compared", COMPARED, ids=range(3))
def test_paths_of_the_machine_are_neither_reported_nor_compared(
    client: TestClient, compared: dict[str, object]
) -> None:
    (hit, *_) = client.post("/v1/search", json={"text": "a car"}).json()["hits"]
    assert hit["path"] is None
    positive = [{"id": hit["id"]}]
    for route, body in (("search", {}), ("facets", {}), ("recommend", {"positive": positive})):
        answer = client.post(f"/v1/{route}", json=body | compared)
        assert answer.status_code == 400, (route, answer.text)
        assert "does not report paths" in answer.json()["error"]["message"]
    texts = {"filter": 'caption != "path" and metadata["path"] != 1'}
    assert client.post("/v1/search", json=texts).status_code == 200


def test_an_operator_may_show_paths(
    uri: str, service: Service, predictor: TorchPredictor, settings: ServerSettings
) -> None:
    shown = settings.replace(show_paths=True)
    with (
        closing(Service([service.collections["others"].collection], predictor, shown)) as other,
        TestClient(create_app(other, shown), base_url="http://localhost") as client,
    ):
        (hit,) = client.post("/v1/search", json={"filter": 'path like "/%"'}).json()["hits"]
    assert hit["path"] == service.collections["others"].record(hit["id"]).path


def test_the_vectors_of_an_added_item_are_those_of_indexing(
    client: TestClient, service: Service, predictor: TorchPredictor
) -> None:
    id = client.post("/v1/items", json=new(201, caption="two dogs play")).json()["id"]
    record = service.collections["others"].record(id)
    assert record.vector == pytest.approx(predictor.embed_images([image_bytes(201)])[0], abs=1e-5)
    assert record.text_vector is not None
    text_vector = predictor.embed_texts(["two dogs play"])[0]
    assert record.text_vector == pytest.approx(text_vector, abs=1e-5)
    client.delete(f"/v1/items/{id}?collection=others")


def test_several_items_are_changed(client: TestClient) -> None:
    added = [client.post("/v1/items", json=new(number)).json()["id"] for number in (202, 203)]
    both = {"ids": [*added, "nosuch"], "collection": "others"}
    changed = client.patch("/v1/items", json={**both, "metadata": {"trip": 1}}).json()
    assert changed == {"ids": added, "missing": ["nosuch"]}
    scope = {"collection": "others", "where": [{"field": "metadata.trip", "value": 1}]}
    assert set(ids(client, scope)) == set(added)
    for id in added:
        client.delete(f"/v1/items/{id}?collection=others")


def full(*arguments: object) -> None:
    raise StorageError("the disk is full")


def test_a_file_that_cannot_be_written_leaves_no_record(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "write_atomic", full)
    assert client.post("/v1/items", json=new(207)).status_code == 507
    collection = service.collections["others"].collection
    assert collection.ids(where(CONTENT, "==", content_id(image_bytes(207)))) == []


def test_a_record_that_cannot_be_written_leaves_no_file(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service.settings.uploads
    assert folder is not None
    monkeypatch.setattr(type(service.collections["others"].collection), "update", full)
    assert client.post("/v1/items", json=new(208)).status_code == 507
    assert list(folder.rglob(f"{content_id(image_bytes(208))}*")) == []
    assert ids(client, {"text": "a cat"})


def test_copies_of_an_image_are_hidden_and_favourites_together(
    client: TestClient, service: Service
) -> None:
    collection = service.collections["others"].collection
    added = client.post("/v1/items", json=new(209, tags=["own"])).json()
    (record,) = collection.get([added["id"]]).values()
    collection.upsert([replace(record, id="copy", path="/elsewhere/copy.png", tags=("theirs",))])
    scope, url = {"collection": "others"}, f"/v1/items/{added['id']}?collection=others"
    (hit,) = [
        hit
        for hit in client.post("/v1/search", json=scope | {"text": "a"}).json()["hits"]
        if hit["id"] in (added["id"], "copy")
    ]
    assert hit["copies"] == 2
    assert {added["id"], "copy"} <= set(ids(client, scope))
    assert "copy" not in ids(client, scope | {"id": added["id"]})
    groups = client.post("/v1/duplicates", json=scope).json()["groups"]
    assert groups == []
    again = client.post("/v1/items", json=new(209)).json()
    assert again["id"] == added["id"]

    def tags() -> list[tuple[str, ...]]:
        return [collection.get([id])[id].tags for id in (added["id"], "copy")]

    client.patch(url, json={"add_tags": [FAVOURITE, "more"]})
    assert tags() == [("own", FAVOURITE, "more"), ("theirs", FAVOURITE)]
    both = {"ids": ["copy"], "collection": "others", "remove_tags": [FAVOURITE], "hidden": True}
    assert client.patch("/v1/items", json=both).json()["ids"] == ["copy", added["id"]]
    assert tags() == [("own", "more"), ("theirs",)]
    assert not {added["id"], "copy"} & set(ids(client, scope | {"text": "a"}))
    assert set(ids(client, scope | {"hidden": True})) == {added["id"], "copy"}
    for id in (added["id"], "copy"):
        client.delete(f"/v1/items/{id}?collection=others")


def test_an_item_that_another_request_adds_and_changes_meanwhile_is_kept(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, first = service.decoder.decode, [True]

    def decode_slowly(*arguments: Any) -> Any:
        if first:
            first.clear()
            other = client.post("/v1/items", json=new(77, caption="theirs"))
            assert other.status_code == 201
            path = f"/v1/items/{other.json()['id']}?collection=others"
            assert client.patch(path, json={"add_tags": ["kept"]}).status_code == 200
        return decode(*arguments)

    monkeypatch.setattr(service.decoder, "decode", decode_slowly)
    late = client.post("/v1/items", json=new(77, caption="mine"))
    assert late.status_code == 200
    assert (late.json()["caption"], late.json()["tags"]) == ("theirs", ["kept"])
    client.delete(f"/v1/items/{late.json()['id']}?collection=others")
