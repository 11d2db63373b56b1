import os
from typing import Any

from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.photo_metadata import Annotation
from coca.search.ingest.pipeline import add
from coca.search.ingest.sources import SourceImage
from coca.search.milvus.collection import Collection
from coca.search.records import content_id


def test_images_from_anywhere_are_added_once(embedder: Any, collection: Collection) -> None:
    images = [
        SourceImage(path=f"a.tar/{n}", data=b"%d" % n, annotation=Annotation(f"c{n}", {"n": n}))
        for n in range(5)
    ]
    assert add(images, embedder, collection, batch_size=2) == IngestReport(added=5)
    assert add(iter(images), embedder, collection) == IngestReport(unchanged=5)
    assert len(embedder.embedded) == 5
    changed = [SourceImage(path="a.tar/0", data=b"new"), SourceImage(path="a.tar/1", data=b"1")]
    assert add(changed, embedder, collection) == IngestReport(updated=2)
    captions = {os.path.basename(path): caption for _, path, caption, _ in collection.origins()}
    assert captions == {"0": "", "1": "", "2": "c2", "3": "c3", "4": "c4"}
    assert collection.get([content_id(b"0")]) == {}


def test_of_two_images_with_one_path_the_last_stays(embedder: Any, collection: Collection) -> None:
    add([SourceImage(path="x", data=b"1"), SourceImage(path="x", data=b"2")], embedder, collection)
    assert [id for id, *_ in collection.origins()] == [content_id(b"2")]
