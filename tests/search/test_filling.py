"""Metadata of records, and frame series."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.photo_metadata import Annotation
from coca.search.ingest.sources import WHOLE, Entry, FileSource, ImageSource, SourceImage
from coca.search.records import (
    Record,
    frame_interval_of,
    record_id,
    series_etag,
    series_of,
    series_path,
)
from coca.search.search_options import SearchOptions
from coca.search.store import Collection
from tiny_data import image_bytes
from tiny_ingest import ingest


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "holiday" / "a.png"
    path.parent.mkdir()
    path.write_bytes(image_bytes(0, side=14))
    os.utime(path, (1_000, 1_000))
    return path


def record_of(collection: Collection, path: Path | str) -> Record:
    (record,) = collection.get([record_id(str(path))]).values()
    return record


def test_a_record_has_size_time_album_and_tags(
    photo: Path, embedder: Any, collection: Collection
) -> None:
    ingest([FileSource([photo.parent])], embedder, collection)
    bare = record_of(collection, photo)
    assert (bare.width, bare.height, bare.time) == (14, 14, 1_000)
    assert (bare.album, bare.tags) == (str(photo.parent), ())
    annotation = {"tags": "sea, sun", "album": "2024", "time": "2024-05-31T18:30:00+02:00", "n": 1}
    photo.with_suffix(".json").write_text(json.dumps(annotation))
    assert ingest([FileSource([photo.parent])], embedder, collection) == IngestReport(updated=1)
    record = record_of(collection, photo)
    assert (record.album, record.tags, record.time) == ("2024", ("sea", "sun"), 1717180200)
    assert record.metadata == {"n": 1, "utc_offset": 120}
    assert ingest([FileSource([photo.parent])], embedder, collection) == IngestReport(unchanged=1)


def test_fields_that_cannot_be_read_so_stay_metadata(
    photo: Path, embedder: Any, collection: Collection
) -> None:
    annotation = {"tags": [1, 2], "album": 7, "time": "one evening"}
    photo.with_suffix(".json").write_text(json.dumps(annotation))
    ingest([FileSource([photo.parent])], embedder, collection)
    assert record_of(collection, photo).metadata == annotation


def test_a_caption_given_or_written_is_found_by_its_own_vector(
    photo: Path, embedder: Any, collection: Collection
) -> None:
    def text_vector() -> Any:
        return record_of(collection, photo).text_vector

    ingest([FileSource([photo.parent])], embedder, collection)
    assert text_vector() is None
    ingest(
        [FileSource([photo.parent])],
        embedder,
        collection,
        captioner=lambda images: ["written"] * len(images),
    )
    assert text_vector() == pytest.approx(embedder.direction(b"written"))
    photo.with_suffix(".txt").write_text("given")
    ingest([FileSource([photo.parent])], embedder, collection)
    assert text_vector() == pytest.approx(embedder.direction(b"given"))
    ((hit,),) = collection.nearest(
        embedder.direction(b"given")[np.newaxis], SearchOptions(limit=1, on="text")
    )
    assert hit.score == pytest.approx(1, abs=1e-5)
    photo.with_suffix(".txt").unlink()
    ingest([FileSource([photo.parent])], embedder, collection)
    assert text_vector() is None


class Films(ImageSource):
    """In-memory source of image series; a series may end in an error."""

    is_series = True

    def __init__(self, films: dict[str, Sequence[bytes | DataError]], etag: str = "1") -> None:
        self.films = films
        self.etag = series_etag(etag, 0.5)
        self.opened: list[str] = []

    def entries(self) -> Sequence[Entry]:
        return [Entry(name, self.etag) for name in self.films]

    def read(self, entry: Entry) -> Iterator[SourceImage]:
        self.opened.append(entry.path)
        for second, image in enumerate(self.films[entry.path]):
            if isinstance(image, DataError):
                raise image
            annotation = Annotation(album=entry.path)
            path = series_path(entry.path, second / 2)
            yield SourceImage(path=path, data=image, annotation=annotation, etag=entry.etag)

    def has_lost(self, path: str, etag: str) -> bool:
        return path.startswith("/films/")


Fill = Callable[..., IngestReport]


@pytest.fixture
def fill(embedder: Any, collection: Collection) -> Fill:
    def fill(films: Films, **settings: Any) -> IngestReport:
        embedder.embedded.clear()
        return ingest([films], embedder, collection, **settings)

    return fill


def paths(collection: Collection) -> set[str]:
    return {record.path for page in collection.pages(vectors=False) for record in page}


def test_the_path_of_a_moment_leads_back_to_its_film() -> None:
    assert [series_path("/a.mp4", s) for s in (0.0, 10.0, 2.5, 0.1234)] == [
        "/a.mp4#t=0",
        "/a.mp4#t=10",
        "/a.mp4#t=2.5",
        "/a.mp4#t=0.123",
    ]
    for frame_interval_s in (0.5, 1e-05, 1e20, float("inf")):
        etag = series_etag("512-17", frame_interval_s)
        for path in ("/a.mp4", "/#t=3.jpg", "/a#t=x"):
            for marked in (etag, f"{etag}{WHOLE}"):
                assert series_of(path, marked) == path
                assert series_of(series_path(path, 12.25), marked) == path
        assert frame_interval_of(etag) == frame_interval_s


@pytest.mark.parametrize("etag", ["", "512-17", "0123456789abcdef", "89abcdef:0123456789abcdef"])
def test_only_an_etag_distinguishes_a_moment_from_a_key_that_looks_like_one(etag: str) -> None:
    assert series_of("/a.tar/k#t=3", etag) == "/a.tar/k#t=3"


@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_series_is_one_album_and_is_not_read_again(
    fill: Fill, collection: Collection, embedder: Any, batch_size: int
) -> None:
    films = Films({"/films/a": [b"1", b"2", b"3"], "/films/b": [b"4"]})
    assert fill(films, batch_size=batch_size) == IngestReport(added=4)
    assert record_of(collection, "/films/a#t=0.5").vector == pytest.approx(embedder.direction(b"2"))
    (hits,) = collection.nearest(np.eye(16, dtype=np.float32)[:1], SearchOptions(group_by="album"))
    assert {hit.album for hit in hits} == {"/films/a", "/films/b"}
    films.opened.clear()
    assert fill(films, batch_size=batch_size) == IngestReport(unchanged=4)
    assert films.opened == []


def test_a_series_that_was_left_half_done_is_finished_without_embedding_twice(
    fill: Fill, collection: Collection, embedder: Any
) -> None:
    broken = DataError("the film is torn", reason="truncated")
    report = fill(Films({"/films/a": [b"1", b"2", broken, b"3"]}))
    assert (report.added, [bad.path for bad in report.bad]) == (2, ["/films/a"])
    assert fill(Films({"/films/a": [b"1", b"2", b"3"]})) == IngestReport(added=1, unchanged=2)
    assert embedder.embedded == [b"3"]
    assert fill(Films({"/films/a": [b"1", b"2", b"3"]})) == IngestReport(unchanged=3)


def test_a_series_that_was_cut_again_keeps_nothing_of_the_old_one(
    fill: Fill, collection: Collection
) -> None:
    fill(Films({"/films/a": [b"1", b"2", b"3", b"4"]}))
    report = fill(Films({"/films/a": [b"1", b"5"]}, etag="2"))
    assert report == IngestReport(updated=1, unchanged=1)
    assert paths(collection) == {"/films/a#t=0", "/films/a#t=0.5"}
    assert collection.count() == 2


def test_a_series_that_is_gone_is_pruned_and_its_copies_stay(
    fill: Fill, collection: Collection
) -> None:
    fill(Films({"/films/a": [b"black", b"1"], "/films/b": [b"black", b"2"]}))
    left = Films({"/films/b": [b"black", b"2"]})
    assert fill(left) == IngestReport(unchanged=2)
    assert fill(left, prune=True) == IngestReport(unchanged=2, removed=2)
    assert paths(collection) == {"/films/b#t=0", "/films/b#t=0.5"}


def test_a_still_series_is_embedded_once_and_whole(
    fill: Fill, collection: Collection, embedder: Any
) -> None:
    films = Films({"/films/a": [b"still"] * 5})
    assert fill(films, batch_size=2) == IngestReport(added=1, duplicates=4)
    assert embedder.embedded == [b"still"]
    assert fill(films) == IngestReport(unchanged=5)
    assert films.opened == ["/films/a"]


def test_captions_and_texts_of_a_series_are_made_later(fill: Fill, collection: Collection) -> None:
    films = Films({"/films/a": [b"1", b"2"]})
    fill(films)
    asked: list[bytes] = []

    def write(images: Sequence[bytes]) -> list[str]:
        asked.extend(images)
        return [image.decode() for image in images]

    for settings in ({"captioner": write}, {"text_reader": write}):
        for _ in range(2):
            fill(films, **settings)
    assert asked == [b"1", b"2"] * 2
    record = record_of(collection, "/films/a#t=0.5")
    assert (record.caption, record.metadata) == ("2", {"ocr_text": "2"})
