import json
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.shards import ShardWriter
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.search.report import BadPicture, IngestReport
from coca.workflows.index import BadPictureLog, index_pictures
from tiny_data import picture
from tiny_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(write_model(tmp_path_factory.mktemp("model") / "model"))


def test_tars_tables_and_folders_fill_one_collection_and_a_second_run_does_nothing(
    model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "pictures.db")
    with ShardWriter(tmp_path / "shards", samples_per_shard=2) as writer:
        for n in range(5):
            writer.write(Sample(f"k{n}", picture(n), (f"number {n}",)))
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in (4, 5, 6):
        (photos / f"{n}.png").write_bytes(picture(n))
    table = tmp_path / "table.csv"
    table.write_text("image,caption\nphotos/6.png,six\n")
    places = [photos, tmp_path / "shards", table]
    first = index_pictures(places, model, uri=uri, captions=False)
    # 4 stands in a folder and a tar, 6 in a folder and a table: one record each.
    assert first.collection.count == 7
    assert first.report == IngestReport(added=7, duplicates=1, unchanged=0, updated=1)
    monkeypatch.setattr(Predictor, "embed_prepared", lambda *_: pytest.fail("it embeds again"))
    again = index_pictures(places[1:2], model, uri=uri, captions=False)
    assert again.report == IngestReport(unchanged=5)
    # A tar that is packed anew with fewer samples loses its records only when asked.
    for path in writer.paths[1:]:
        path.unlink()
    shorter = index_pictures(places[1:2], model, uri=uri, captions=False, prune=True)
    assert shorter.report == IngestReport(unchanged=2, removed=2)
    assert shorter.collection.count == 5


def test_bad_pictures_are_listed_once_and_too_many_stop_the_run(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    bad = [BadPicture(f"{n}.jpg", "truncated", f"{n}.jpg is truncated") for n in range(3)]
    for _ in range(2):
        BadPictureLog(path, 0.01).add(100, bad)
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["key"] for line in listed] == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(DataError, match="3 truncated"):
        BadPictureLog(None, 0.002).add(100, bad)
