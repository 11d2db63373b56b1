"""`coca index` runs in another process while clients search the service."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from coca.predict.torch_predictor import TorchPredictor
from server_process import data_uri, serving
from tiny_collection import item_ids_of, write_collections
from tiny_data import image_bytes

READERS = 8


@pytest.mark.service
def test_what_another_process_indexes_is_found_by_the_next_request(
    tmp_path: Path, predictor: TorchPredictor, images: list[bytes]
) -> None:
    uri = write_collections(tmp_path, predictor, {"pictures": images})
    folder, new = tmp_path / "pictures", image_bytes(6, side=24)
    *_, own = item_ids_of(uri, count=7)
    arguments = ("--uri", uri, "--model", predictor.source)
    ended, faults = threading.Event(), list[bytes]()
    with serving(*arguments, cache=tmp_path / "cache") as process:

        def found(**body: object) -> list[str]:
            answer = process.post("/v1/search", body)
            assert answer.status == 200, answer.body
            return [hit["id"] for hit in answer.json()["hits"]]

        def read(number: int) -> None:
            body = {"text": "a red car"} if number % 2 else {}
            while not ended.is_set():
                answer = process.post("/v1/search", body)
                if answer.status != 200:
                    faults.append(answer.body)

        def index() -> None:
            command = [sys.executable, "-m", "coca", "index", str(folder), *arguments, "--prune"]
            subprocess.run(command, capture_output=True, check=True)

        readers = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
        for reader in readers:
            reader.start()
        try:
            (folder / "6.png").write_bytes(new)
            index()
            assert found(image=data_uri(new))[0] == own
            assert own in found()
            assert own in found(text="a red car")
            (folder / "6.png").unlink()
            index()
            assert own not in found(image=data_uri(new)) + found() + found(text="a red car")
        finally:
            ended.set()
            for reader in readers:
                reader.join()
    assert faults == []
