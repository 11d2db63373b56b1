"""What is chosen out of a collection is read back as it was: images, captions, labels."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.config.frozen_config import from_dict
from coca.core.errors import ConfigError, SearchError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.source import SourceConfig
from coca.data.sources.tar.shards import ShardWriter
from coca.search.ingest.sources import FileSource
from coca.search.records import Origin
from coca.search.store import Collection
from coca.search.stores import open_collection
from coca.workflows.collections.image_resolver import is_within
from coca.workflows.collections.image_sources import open_sources, resolve_uris
from coca.workflows.collections.subset import check_out, write_subset
from store_changes import patch
from tiny_data import image_bytes
from tiny_ingest import ingest


class StandIn:
    """A stub model: every image and text gets the same vector."""

    fingerprint, embed_dim = "one", 4

    def embed_images(self, images: Any) -> Any:
        return np.tile(np.eye(4, dtype=np.float32)[0], (len(images), 1))

    embed_texts = embed_images


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with open_collection(
        str(tmp_path / "a.db"), embed_dim=4, fingerprint="one", create=True
    ) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two files with sidecars, of which one has two captions, the other a label."""
    folder = tmp_path / "photos"
    folder.mkdir()
    words: list[dict[str, Any]] = [
        {"captions": ["a car", "auto"], "kind": "x", "tags": ["red"], "time": 7, "album": "trip"},
        {"caption": "a dog", "label": "dog", "tags": ["brown"]},
    ]
    for n, sidecar in enumerate(words):
        (folder / f"{n}.png").write_bytes(image_bytes(n))
        (folder / f"{n}.json").write_text(json.dumps(sidecar))
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A tar and a zip with images, labels and captions."""
    with ShardWriter(tmp_path / "shards") as writer:
        for n in (2, 3):
            writer.write(
                Sample(f"k{n}", image_bytes(n), (f"number {n}", f"no {n}"), (f"class {n}",))
            )
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("pics/4.png", image_bytes(4))
        row = {"image": "pics/4.png", "caption": "number 4", "label": "class 4", "n": 4}
        file.writestr("meta.jsonl", json.dumps(row))
    return [*writer.paths, tmp_path / "set.zip"]


def samples(kind: str, path: Path) -> list[Sample]:
    source = open_source(
        from_dict(SourceConfig, {"kind": kind, "path": str(path)}, source="a test")
    )
    return [source.read(row) for row in range(len(source))]


def test_files_are_named_by_a_manifest_with_all_their_captions(
    collection: Collection, photos: Path, tmp_path: Path
) -> None:
    ingest([FileSource([photos])], StandIn(), collection)
    scores = dict.fromkeys(collection.ids(), 0.5)
    subset = write_subset(tmp_path / "below" / "some.jsonl", collection, scores)
    assert (subset.written, subset.lost) == (2, [])
    read = {one.image: one for one in samples("manifest", tmp_path / "below" / "some.jsonl")}
    car, dog = read[image_bytes(0)], read[image_bytes(1)]
    assert (car.captions, car.labels) == (("a car", "auto"), ("red",))
    assert {name: car.metadata[name] for name in car.metadata if name != "mined"} == {
        "kind": "x",
        "tags": ["red"],
        "time": 7,
        "album": "trip",
    }
    assert car.metadata["mined"] == {"id": car.key, "score": 0.5}
    assert (dog.captions, dog.labels) == (("a dog",), ("dog",))
    assert dog.metadata["tags"] == ["brown"]
    assert car.key in scores


@pytest.mark.parametrize("name", ["some.jsonl", "some"])
def test_fields_of_the_record_are_never_replaced(
    collection: Collection, tmp_path: Path, name: str
) -> None:
    own = {"score": 9, "id": "mine", "key": "k", "image": "x.png", "time": "noon", "album": 7}
    own |= {"tags": [1], "mined": "once", "path": "p", "url": "u"}
    (tmp_path / "a.png").write_bytes(image_bytes(0))
    (tmp_path / "a.json").write_text(json.dumps(own | {"caption": "a car"}))
    ingest([FileSource([tmp_path / "a.png"])], StandIn(), collection)
    (id,) = collection.ids()
    write_subset(tmp_path / name, collection, {id: 0.25})
    if name == "some":
        (sample,) = samples("shards", tmp_path / name)
        fields, image = dict(sample.metadata), own["image"]
        assert sample.key == id
    else:
        fields = json.loads((tmp_path / name).read_text())
        # The name of the image is what a manifest is for.
        image = str(tmp_path / "a.png")
        assert fields["mined"].pop("image") == own["image"]
        assert fields.pop("captions") == ["a car"]
        (sample,) = samples("manifest", tmp_path / name)
        assert (sample.image, sample.captions) == (image_bytes(0), ("a car",))
    assert fields == own | {"image": image, "mined": {"id": id, "score": 0.25}}


@pytest.mark.parametrize("name", ["some.jsonl", "some"])
def test_captions_of_the_model_are_left_out_unless_asked_for(
    collection: Collection, photos: Path, tmp_path: Path, name: str
) -> None:
    (photos / "2.png").write_bytes(image_bytes(2))
    ingest(
        [FileSource([photos])],
        StandIn(),
        collection,
        captioner=lambda images: ["guessed"] * len(images),
    )
    (guessed,) = collection.ids('caption_source == "model"')
    scores = dict.fromkeys(collection.ids(), 0.5)
    kind = "manifest" if name.endswith(".jsonl") else "shards"
    subset = write_subset(tmp_path / name, collection, scores)
    assert (subset.written, subset.model_captions) == (3, 1)
    captions = {one.key: one.captions for one in samples(kind, tmp_path / name)}
    assert sorted(captions.values()) == [(), ("a car", "auto"), ("a dog",)]
    assert captions[guessed] == ()
    subset = write_subset(tmp_path / f"all-{name}", collection, scores, model_captions=True)
    assert (subset.written, subset.model_captions) == (3, 0)
    captions = {one.key: one.captions for one in samples(kind, tmp_path / f"all-{name}")}
    assert captions[guessed] == ("guessed",)


@pytest.mark.parametrize("many", [True, False])
def test_parts_of_files_are_copied_into_shards(
    collection: Collection, photos: Path, parts: list[Path], tmp_path: Path, many: bool
) -> None:
    ingest(
        open_sources(resolve_uris([photos, *parts] if many else [parts[0]])), StandIn(), collection
    )
    scores = dict.fromkeys(collection.ids(), 0.5)
    subset = write_subset(tmp_path / "some", collection, scores)
    numbers = range(5) if many else range(2, 4)
    assert (subset.written, subset.lost) == (len(numbers), [])
    read = {one.image: one for one in samples("shards", tmp_path / "some")}
    assert set(read) == {image_bytes(n) for n in numbers}
    assert read[image_bytes(2)].captions == ("number 2", "no 2")
    assert read[image_bytes(2)].labels == ("class 2",)
    if many:
        assert read[image_bytes(0)].captions == ("a car", "auto")
        assert read[image_bytes(1)].labels == ("dog",)
        assert (read[image_bytes(4)].labels, read[image_bytes(4)].metadata["n"]) == (
            ("class 4",),
            4,
        )
    # The same subset as a collection of its own has the same report.
    with open_collection(
        str(tmp_path / "b.db"), embed_dim=4, fingerprint="one", create=True
    ) as other:
        ingest(open_sources(resolve_uris([tmp_path / "some"])), StandIn(), other)
        before, after = (
            {record.content: record for page in some.pages() for record in page}
            for some in (collection, other)
        )
    assert before.keys() == after.keys()
    for content, record in after.items():
        own = before[content]
        assert (record.caption, record.album) == (own.caption, own.album)
        assert set(record.tags) >= set(own.tags)


def test_frames_of_videos_are_copied_too(collection: Collection, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from tiny_video import video

    (tmp_path / "film.mp4").write_bytes(video())
    ingest(
        open_sources(resolve_uris([tmp_path / "film.mp4"]), frame_interval_s=0.5),
        StandIn(),
        collection,
    )
    subset = write_subset(tmp_path / "some", collection, dict.fromkeys(collection.ids(), 0.0))
    assert subset.written == collection.count() > 1
    assert {one.metadata["album"] for one in samples("shards", tmp_path / "some")} == {
        str(tmp_path / "film.mp4")
    }


def test_a_manifest_that_would_name_a_part_of_a_file_is_refused(
    collection: Collection, photos: Path, parts: list[Path], tmp_path: Path
) -> None:
    ingest(open_sources(resolve_uris([photos, *parts])), StandIn(), collection)
    with pytest.raises(SearchError, match="is part of a file"):
        write_subset(tmp_path / "some.jsonl", collection, dict.fromkeys(collection.ids(), 0.0))
    assert not (tmp_path / "some.jsonl").exists()


def test_an_address_stays_an_address(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"image": "none.png"}\n')
    (tmp_path / "none.png").write_bytes(image_bytes(0))
    ingest(open_sources(resolve_uris([tmp_path / "set.jsonl"])), StandIn(), collection)
    (record,) = collection.get(collection.ids()).values()
    address = "https://example.org/none.png"
    patch(collection, {record.id: {"path": address, "origin": Origin()}})
    write_subset(tmp_path / "some.jsonl", collection, {record.id: 0.0})
    assert json.loads((tmp_path / "some.jsonl").read_text())["image"] == address


@pytest.mark.parametrize("name", ["some.jsonl", "some"])
def test_missing_files_are_reported_and_the_rest_is_written(
    collection: Collection, photos: Path, tmp_path: Path, name: str
) -> None:
    ingest([FileSource([photos])], StandIn(), collection)
    scores = dict.fromkeys(collection.ids(), 0.0)
    (photos / "0.png").unlink()
    subset = write_subset(tmp_path / name, collection, scores)
    assert subset.written == 1
    assert [path for path, _ in subset.lost] == [str(photos / "0.png")]
    (photos / "1.png").unlink()
    with pytest.raises(SearchError, match="none of 2 selected images is readable; the first error"):
        write_subset(tmp_path / f"more-{name}", collection, scores)
    assert not (tmp_path / f"more-{name}").exists()


def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a manifest ends in \.jsonl"):
        check_out(tmp_path / "some.txt")
    (tmp_path / "shard-000000.tar").touch()
    with pytest.raises(ConfigError, match="has shards"):
        check_out(tmp_path)
    check_out(tmp_path / "some")


def test_a_file_of_its_own_is_no_part_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "of a.tar"
    folder.mkdir()
    (folder / "0.png").touch()
    assert not is_within(str(folder / "0.png"), "")
    assert is_within("film.mp4#t=2.5", "9-9/0.5s+")
    assert not is_within("film.mp4#t=2.5", "9-9")
    assert is_within("https://example.org/a.tar/k1", "")
