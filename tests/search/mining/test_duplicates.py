"""Near-duplicates planted among photos, and the images of a collection that are compared."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from coca.search.mining.duplicates import Pair, near_duplicates
from coca.search.mining.images import Compared, read_images
from coca.search.perceptual_hash import HASH_BYTES, mirrored, normalized, perceptual_hash, stacked
from coca.search.records import Origin, Record
from coca.search.store import Collection

Picture = Image.Image
BLOCK = "coca.search.mining.duplicates._BLOCK"


@cache
def photos() -> list[Picture]:
    """Thirty photos of the demo."""
    with (
        files("coca.workflows.demo").joinpath("photos.zip").open("rb") as file,
        zipfile.ZipFile(file) as all,
    ):
        names = sorted(name for name in all.namelist() if name.endswith(".webp"))[:30]
        return [Image.open(io.BytesIO(all.read(name))).convert("RGB") for name in names]


def compressed(image: Picture) -> Picture:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=15)
    return Image.open(stream)


def scaled(image: Picture, across: float, down: float) -> Picture:
    return image.resize((round(image.width * across), round(image.height * down)))


def cropped(image: Picture) -> Picture:
    width, height = image.size
    return image.crop((round(0.03 * width), round(0.02 * height), width, height))


def labelled(image: Picture) -> Picture:
    image = image.copy()
    width, height = image.size
    ImageDraw.Draw(image).rectangle((0.1 * width, 0.93 * height, 0.5 * width, height), "white")
    return image


def barred(image: Picture, above: float, below: float) -> Picture:
    """Add white bars with black text, in parts of the height, and compress the image."""
    width, height = image.size
    whole = Image.new("RGB", (width, round(height * (1 + above + below))), "white")
    whole.paste(image, (0, round(height * above)))
    write = ImageDraw.Draw(whole).text
    if above:
        write((width // 20, 2), "WHEN YOU FORGET", "black")
    if below:
        write((width // 20, round(height * (1 + above)) + 2), "the milk", "black")
    stream = io.BytesIO()
    scaled(whole, 0.7, 0.7).save(stream, "JPEG", quality=80)
    return Image.open(stream)


def compared(images: list[Picture], seed: int = 0) -> Compared:
    """Hash images; images of the same place in two lists have a cosine of about 0.95."""
    random = np.random.default_rng(0)
    own = random.standard_normal((len(images), 64))
    vectors = own + 0.25 * np.random.default_rng(seed).standard_normal(own.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Compared(
        vectors=vectors.astype(np.float32),
        hashes=stacked([perceptual_hash(image) for image in images]),
        sizes=np.array([image.size for image in images], np.int64),
    )


def joined(*parts: Compared) -> Compared:
    return Compared(
        **{key: np.concatenate([vars(one)[key] for one in parts]) for key in vars(parts[0])}
    )


def kinds(pairs: list[Pair]) -> dict[tuple[int, int], str]:
    return {(pair.first, pair.second): pair.kind for pair in pairs}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda image: scaled(image, 0.5, 0.5), "same image"),
        (lambda image: scaled(image, 0.25, 0.25), "same image"),
        (compressed, "same image"),
        (lambda image: image.convert("L"), "same image"),
        (ImageOps.mirror, "part or edit"),
        (labelled, "part or edit"),
        (cropped, "part or edit"),
        (lambda image: scaled(image, 0.5, 0.8), "part or edit"),
    ],
    ids=["half", "quarter", "jpeg", "grey", "mirror", "label", "crop", "stretched"],
)
def test_a_changed_image_is_found_and_no_other(change: Any, kind: str) -> None:
    originals, count = photos(), len(photos())
    changed = compared([change(image) for image in originals], seed=1)
    found = near_duplicates(joined(compared(originals), changed))
    pairs = kinds(found.pairs)
    assert set(pairs) <= {(row, row + count) for row in range(count)}
    assert set(pairs.values()) == {kind}
    assert len(pairs) >= (1 if kind == "same image" else 0.9) * count
    listed = sorted(sorted(pair) for pair in pairs)
    assert sorted(found.groups) == (listed if kind == "same image" else [])
    assert sorted(found.related) == (listed if kind == "part or edit" else [])
    assert found.drop == sorted(pair[1] for pair in found.groups)
    # The same with images of another set, of which none is dropped.
    across = near_duplicates(compared(originals), changed)
    assert kinds(across.pairs) == {(a, b - count): kind for (a, b), kind in pairs.items()}
    assert across.drop == sorted(pair[0] for pair in found.groups)


def unlike(images: Compared, seed: int) -> Compared:
    """Replace the vectors by others, whose cosines with the former ones are about 0."""
    vectors = np.random.default_rng(seed).standard_normal(images.vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return replace(images, vectors=vectors.astype(np.float32))


@pytest.mark.parametrize(
    ("above", "below"), [(0, 0.1), (0, 0.3), (0.2, 0), (0.15, 0.15), (0, 0.9)], ids=str
)
def test_an_image_with_bars_is_found_at_any_cosine(above: float, below: float) -> None:
    originals, count = photos(), len(photos())
    # Photos of other shapes than those with bars.
    shapes = [image.crop((0, 0, image.width, int(0.8 * image.height))) for image in originals[:10]]
    plain = joined(compared(originals), unlike(compared(shapes), 1))
    changed = unlike(compared([barred(image, above, below) for image in originals]), 2)
    alone = near_duplicates(plain)
    found = near_duplicates(joined(plain, changed))
    pairs = {pair: kind for pair, kind in kinds(found.pairs).items() if pair[1] >= count + 10}
    same = {(row, row + count + 10) for row in range(count)}
    # The crops are parts of the photos, and of these with bars.
    assert {(a, b) for a, b in pairs if a < count} <= same
    assert len(same & pairs.keys()) >= 0.9 * count
    assert set(pairs.values()) == {"part or edit"}
    assert found.drop == alone.drop == []
    # In both directions, and in other blocks.
    for first, second in ((plain, changed), (changed, plain)):
        across = {(pair.first, pair.second) for pair in near_duplicates(first, second).pairs}
        turned = across if first is plain else {(b, a) for a, b in across}
        assert {(a, b - count - 10) for a, b in pairs} == turned
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLOCK, 7)
        assert kinds(near_duplicates(joined(plain, changed)).pairs) == kinds(found.pairs)


def test_the_best_of_a_group_stays_and_blocks_change_nothing() -> None:
    originals = photos()[:9]
    small = [scaled(image, 0.5, 0.5) for image in originals]
    edited = [labelled(image) for image in originals[:3]]
    images = joined(compared(small, 1), compared(originals), compared(edited, 2))
    ranks = [*range(9, 18), *range(9), *range(18, 21)]
    whole = near_duplicates(images, ranks=ranks)
    assert sorted(whole.groups) == [[row + 9, row] for row in range(9)]
    assert whole.drop == list(range(9))
    assert sorted(whole.related) == [[row + 9, row + 18] for row in range(3)]
    assert whole.counts["same image"] == 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLOCK, 4)
        blocks = near_duplicates(images, ranks=ranks)
        few = near_duplicates(images, ranks=ranks, keep=4)
    assert kinds(blocks.pairs) == kinds(whole.pairs)
    assert replace(blocks, pairs=[]) == replace(few, pairs=[]) == replace(whole, pairs=[])
    assert [pair.score for pair in few.pairs[:4]] == pytest.approx(
        sorted((pair.score for pair in whole.pairs[:9]), reverse=True)[:4]
    )


def test_uniform_images_and_images_without_a_hash_are_like_no_other() -> None:
    grey = [Image.new("RGB", (64, 48), (level,) * 3) for level in (0, 128, 129, 255)]
    images = compared(grey)
    unknown = Compared(
        vectors=images.vectors, hashes=stacked([b""] * 4), sizes=np.zeros((4, 2), np.int64)
    )
    assert near_duplicates(joined(images, unknown, images, unknown)).pairs == []
    levels = np.array([[128, 130] * 128, [128, 129] * 128], np.uint8)
    assert np.linalg.norm(normalized(levels), axis=1).tolist() == [1.0, 0.5]


def test_many_equal_images_take_memory_for_images_and_not_for_pairs() -> None:
    one = compared(photos()[:1])
    images = joined(*[one] * 3_000)
    tracemalloc.start()
    found = near_duplicates(images, keep=100)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.counts["same image"] == 3_000 * 2_999 // 2
    assert len(found.pairs) == 100
    assert found.groups == [list(range(3_000))]
    assert most_bytes < 400e6


def test_a_mirrored_hash_is_that_of_the_mirrored_image() -> None:
    own = stacked([perceptual_hash(ImageOps.mirror(image)) for image in photos()])
    other = mirrored(stacked([perceptual_hash(image) for image in photos()]))
    assert own.shape == (30, HASH_BYTES)
    assert np.abs(own.astype(int) - other).max() <= 1


def test_records_of_the_same_content_are_one_image(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    vector = make_record("a").vector
    names = {"c": "one", "a": "one", "b": "one", "d": "two", "e": "", "f": ""}
    collection.upsert(
        make_record(name, content=content, vector=vector, hidden=name == "b", tags=(content,))
        for name, content in names.items()
    )
    # A table lists a file of the folder.
    collection.upsert([make_record("table", path="/pictures/d.jpg", content="two", vector=vector)])
    images = read_images(collection)
    assert images.ids == ["a", "d", "e", "f"]
    assert images.paths == [f"/pictures/{name}.jpg" for name in images.ids]
    assert images.vectors.shape == (4, len(vector))
    assert images.copies == {"/pictures/a.jpg": ["/pictures/c.jpg"]}
    assert read_images(collection, 'array_contains(tags, "two")').ids == ["d"]
    assert read_images(collection, 'album == "none"').ids == []


def test_the_best_image_has_most_pixels_then_bytes_then_metadata(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    small = {"width": 100, "height": 50}
    collection.upsert(
        [
            make_record("b", **small, origin=Origin(etag="900-1"), tags=("x", "y")),
            make_record("c", **small, origin=Origin(etag="900-2"), metadata={"lens": "50 mm"}),
            make_record("d", **small, origin=Origin(etag="1000-1")),
            make_record("a", **small, origin=Origin(etag="900-1")),
            make_record("e", width=101, height=50),
        ]
    )
    images = read_images(collection)
    order = sorted(range(5), key=images.ranks.__getitem__)
    assert [images.ids[row] for row in order] == ["e", "d", "b", "c", "a"]
