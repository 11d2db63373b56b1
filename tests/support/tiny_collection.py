"""Folders of images that are indexed into Milvus Lite by a tiny model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from coca.inference.predictor import Predictor
from coca.workflows.collections.index import index_images


def write_collections(
    root: Path, predictor: Predictor, collections: Mapping[str, Sequence[bytes]]
) -> str:
    """Index images with captions, tags, times and a metadata field; returns the URI.

    Args:
        root: Empty folder.
        predictor: Model that embeds the images.
        collections: Images by name of the collection.
    """
    uri = str(root / "pictures.db")
    for name, images in collections.items():
        folder = root / name
        folder.mkdir()
        for number, data in enumerate(images):
            (folder / f"{number}.png").write_bytes(data)
            (folder / f"{number}.txt").write_text(f"a red car {number}")
            (folder / f"{number}.json").write_text(
                f'{{"tags": ["t{number % 2}"], "time": "202{number}-05-31", "year": {number}}}'
            )
        index_images([folder], predictor, uri=uri, collection=name)
    return uri
