"""Laws of ingest: any history of a folder ends as if it had been indexed from scratch."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.processing.description import Description
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.sources import FileSource
from coca.search.records import Record
from coca.search.stores import open_collection
from store_changes import patch
from tiny_ingest import ingest

NAMES = ("a.jpg", "b.jpg", "sub/a.jpg", "sub/c.jpg")

name = st.sampled_from(NAMES)
content = st.sampled_from((b"1", b"2", b"3", b"bad"))
caption = st.sampled_from(("", "one", "two"))
operation = st.one_of(
    st.tuples(st.just("write"), name, content),
    st.tuples(st.just("caption"), name, caption),
    st.tuples(st.just("rename"), name, name),
    st.tuples(st.just("copy"), name, name),
    st.tuples(st.just("delete"), name, st.none()),
    st.tuples(st.just("index"), st.booleans(), st.booleans()),
)


DIM = 16


class Captioning:
    """Stand-in model that prepares images, and embeds and captions them in one pass.

    Attributes:
        embedded: Images that the model was called with.
    """

    fingerprint, embed_dim, has_decoder = "stand-in", DIM, True

    def __init__(self) -> None:
        self.embedded: list[bytes] = []

    def embed_images(self, images: Sequence[bytes]) -> Float32[np.ndarray, "N E"]:
        self.embedded.extend(images)
        return self.embed_texts([image.decode() for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        vectors = np.stack(
            [np.random.default_rng(list(text.encode())).standard_normal(DIM) for text in texts]
        )
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def prepare_image(self, image: bytes) -> bytes:
        if image.startswith(b"bad"):
            raise DataError("this is not an image", reason="not_an_image")
        return image

    def embed_prepared(self, images: Any) -> Any:
        return self.embed_images(images)

    def describe(self, images: Any, *, captions: bool, certainty: float) -> list[Description]:
        return [
            Description(vector, seen_in(image), f"written for {image.decode()}" if captions else "")
            for image, vector in zip(
                images, self.embed_images(images) if images else (), strict=True
            )
        ]


def seen_in(image: bytes) -> dict[str, int]:
    return {image.decode(): 10 + len(image)}


class Folder:
    """A folder of images whose files are changed, each with a new time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._time = 1_000

    def apply(self, kind: str, one: str, other: Any) -> None:
        path = self.root / one
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "write":
            path.write_bytes(other)
        elif kind == "caption":
            path.with_suffix(".txt").write_text(other)
        elif kind == "delete":
            path.unlink(missing_ok=True)
        elif path.exists() and path != self.root / other:
            target = self.root / other
            target.parent.mkdir(parents=True, exist_ok=True)
            (path.rename if kind == "rename" else lambda to: shutil.copy(path, to))(target)
            if kind == "rename":
                return
            path = target
        if path.exists():
            self._time += 1
            os.utime(path, (self._time, self._time))


def comparable(record: Record) -> tuple[Any, ...]:
    """What two runs must agree on: everything but how a caption came about."""
    vectors = [
        None if vector is None else vector.tobytes()
        for vector in (record.vector, record.text_vector)
    ]
    origin = replace(record.origin, read=0)
    return replace(
        record, origin=origin, vector=np.zeros(0, np.float32), text_vector=None
    ), *vectors


@pytest.mark.slow
@given(st.lists(operation, max_size=12), st.integers(1, 3))
@settings(max_examples=25)
def test_any_history_ends_as_indexed_from_scratch(
    operations: list[tuple[Any, Any, Any]], batch_size: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, model = Folder(Path(place, "pictures", "here")), Captioning()
        # An empty folder may be the mount point of a drive.
        (folder.root / "sub").mkdir(parents=True)
        (folder.root / "sub" / "keep.jpg").write_bytes(b"keep")

        def run(collection: Any, *, captions: bool = True, prune: bool = True) -> IngestReport:
            source = FileSource([folder.root])
            settings: Any = {"captions": captions, "prune": prune, "batch_size": batch_size}
            return ingest([source], model, collection, **settings)

        about: Any = {"embed_dim": DIM, "fingerprint": model.fingerprint, "create": True}
        with open_collection(f"{place}/a.db", **about) as one:
            run(one)
            for kind, *values in operations:
                if kind == "index":
                    run(one, captions=values[0], prune=values[1])
                else:
                    folder.apply(kind, *values)
            last = run(one)
            assert last.good + len(last.bad) == sum(1 for _ in files(folder.root))
            again = run(one)
            assert again == IngestReport(unchanged=last.good, bad=last.bad)
            for record in one.get(one.ids()).values():
                assert record.metadata["looks_like"] == seen_in(Path(record.path).read_bytes())
            with open_collection(f"{place}/b.db", **about) as other:
                run(other)
                assert listed(one) == listed(other)


def files(root: Path) -> Iterator[Path]:
    return root.rglob("*.jpg")


def listed(collection: Any) -> list[tuple[Any, ...]]:
    return [comparable(record) for page in collection.pages() for record in page]


@given(st.permutations(range(4)), st.permutations(range(4)), st.integers(1, 4))
@settings(max_examples=12)
def test_no_move_or_copy_costs_a_model_call_or_what_people_changed(
    first: list[int], second: list[int], batch_size: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root, model = Path(place, "pictures", "here"), Captioning()
        root.mkdir(parents=True)
        for number in first:
            (root / f"{number}.jpg").write_bytes(b"%d" % number)
        about: Any = {"embed_dim": DIM, "fingerprint": model.fingerprint, "create": True}
        with open_collection(f"{place}/a.db", **about) as collection:

            def run() -> dict[str, Record]:
                source = FileSource([root])
                settings: Any = {"captions": True, "prune": True, "batch_size": batch_size}
                ingest([source], model, collection, **settings)
                pages = collection.pages(vectors=False)
                return {Path(record.path).stem: record for page in pages for record in page}

            before = run()
            model.embedded.clear()
            patch(
                collection,
                {record.id: {"tags": (f"of {name}",)} for name, record in before.items()},
            )
            for number in first:
                path = root / f"{number}.jpg"
                os.utime(path, (1_000 + number, 1_000 + number))
                path.rename(root / f"{number}.old")
            for old, new in zip(first, second, strict=True):
                (root / f"{old}.old").rename(root / f"{new}.jpg")
            shutil.copy(root / "0.jpg", root / "copy.jpg")
            found = run()
            assert model.embedded == []
            for old, new in zip(first, second, strict=True):
                assert found[str(new)].tags == (f"of {old}",)
                assert found[str(new)].caption == before[str(old)].caption
            copy = found["copy"]
            assert (copy.tags, copy.caption) == ((), found["0"].caption)
