import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from coca.predict.torch_predictor import TorchPredictor
from coca.search.records import Record, content_id
from coca.server.collections.served_collection import ServedCollection
from coca.server.images.uploads import Uploads
from coca.server.service import Service, open_service
from coca.server.settings import ServerSettings
from server_process import data_uri, ids
from tiny_data import image_bytes


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("own/p.db", "own/p.db.uploads"),
        ("milvus-lite:own/p.db", "own/p.db.uploads"),
        ("http://localhost:19530", "coca.uploads"),
    ],
)
def test_uploads_are_next_to_the_file_of_their_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Uploads(None, uri).writing("c", content_id(image_bytes(1)), image_bytes(1)) as path:
        assert path.is_relative_to(tmp_path / folder)


def test_a_cached_thumbnail_needs_no_record(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = client.post("/v1/search", json={}).json()["hits"][0]["thumbnail"]
    first = client.get(f"{url}&side=100")

    def unread(*arguments: object) -> None:
        pytest.fail("the record was read")

    monkeypatch.setattr(ServedCollection, "record", unread)
    again = client.get(f"{url}&side=128")
    assert again.content == first.content
    with Image.open(io.BytesIO(again.content)) as image:
        assert (image.format, max(image.size)) == ("JPEG", 24)


def test_an_item_has_its_mean_color_once_it_has_a_thumbnail(
    client: TestClient, service: Service
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 0)).save(stream, "PNG")
    body = {"image": data_uri(stream.getvalue()), "collection": "others"}
    item = client.post("/v1/items", json=body).json()
    assert item["color"] is None
    client.get(item["thumbnail"])
    path = f"/v1/items/{item['id']}?collection=others"
    assert client.get(path).json()["color"] == "#c86400"
    served = service.collections["others"]
    key = served.thumbnail_key(item["id"], content_id(stream.getvalue()))
    client.delete(path)
    assert service.thumbnails.color(key) is None


def test_another_collection_has_other_thumbnails(client: TestClient) -> None:
    url = f"/v1/items/{ids(client, {})[0]}/thumbnail"
    assert client.get(url).status_code == 200
    assert client.get(url, params={"collection": "others"}).status_code == 404


def test_the_thumbnail_of_a_deleted_item_is_neither_kept_nor_served(
    client: TestClient, service: Service
) -> None:
    body = {"image": data_uri(image_bytes(300)), "collection": "others"}
    item = client.post("/v1/items", json=body).json()
    served = service.collections["others"]
    key = served.thumbnail_key(item["id"], content_id(image_bytes(300)))
    small = client.get(item["thumbnail"]).content
    assert small == service.thumbnails.cached(key, 256)
    client.delete(f"/v1/items/{item['id']}?collection=others")
    assert service.thumbnails.cached(key, 256) is None
    assert client.get(item["thumbnail"]).status_code == 404
    # A request that began before the item was deleted may cache it again.
    served.catalog.read()
    service.thumbnails.make(key, 256, image_bytes(300))
    assert client.get(item["thumbnail"]).status_code == 404
    assert service.thumbnails.cached(key, 256) is None


def test_the_thumbnail_of_a_path_is_that_of_its_present_image(
    client: TestClient, service: Service, tmp_path: Path
) -> None:
    served, path = service.collections["others"], tmp_path / "changed.png"
    shown = []
    for color in ("red", "blue"):
        Image.new("RGB", (40, 30), color).save(path)
        content = content_id(path.read_bytes())
        vector = np.eye(1, served.collection.info.embed_dim, dtype=np.float32)[0]
        record = Record(id="changed", path=str(path), content=content, vector=vector)
        served.collection.upsert([record])
        shown.append(client.get("/v1/items/changed?collection=others").json()["thumbnail"])
        for url in (shown[-1], "/v1/items/changed/thumbnail?collection=others"):
            with Image.open(io.BytesIO(client.get(url).content)) as image:
                red, _, blue = np.asarray(image.convert("RGB"))[15, 20]
                assert (red > blue) == (color == "red")
    assert shown[0] != shown[1]
    served.collection.delete(["changed"])


KILLED = """
import os, sys
from pathlib import Path
from coca.server.images.uploads import Uploads
with Uploads(Path(sys.argv[1]), "").writing("others", sys.argv[2], b"an image"):
    os._exit(9)
"""


def test_an_upload_without_its_record_is_removed_after_a_kill(
    uri: str, predictor: TorchPredictor, tmp_path: Path
) -> None:
    settings = ServerSettings(uploads=tmp_path, thumbnails=tmp_path / "thumbnails")
    for content in ("aa11", "bb22"):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), content], check=False)
    with (
        Uploads(tmp_path, "").writing("others", "bb22", b"an image") as kept,
        open_service(uri, ["others"], settings, model=predictor),
    ):
        # Another service is about to write the record of the second one.
        assert [file for file in tmp_path.rglob("*.image") if file.stat().st_size] == [kept]
