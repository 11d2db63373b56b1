"""Collections that a tiny model fills, and how they are embedded and served."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.records import content_id, record_id
from coca.workflows.collections.index import index_images
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    return load_coca(write_model(tmp_path_factory.mktemp("model") / "model"), device="cpu")


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """The images of the collection `pictures`."""
    return [image_bytes(number, side=24) for number in range(6)]


def write_collections(
    root: Path, predictor: TorchPredictor, collections: Mapping[str, Sequence[bytes]]
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


def item_ids_of(uri: str, name: str = "pictures", count: int = 6) -> list[str]:
    """Ids of the items of a collection of `write_collections`, in the order of its images."""
    folder = Path(uri).parent / name
    return [record_id(str(folder / f"{number}.png")) for number in range(count)]


def upload_id_of(uri: str, data: bytes, name: str = "pictures") -> str:
    """Id of the item of an uploaded PNG, which its path determines."""
    content = content_id(data)
    return record_id(f"{uri}.uploads/{name}/{content[:2]}/{content}.png")
