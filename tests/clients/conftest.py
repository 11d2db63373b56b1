"""A real `coca serve` process for unmodified clients of other services."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from coca.predict.torch_predictor import TorchPredictor
from server_process import ServerProcess, serving
from tiny_collection import images, item_ids_of, predictor, write_collections
from tiny_data import image_bytes

__all__ = ["images", "predictor"]

KEY = "key-of-the-tests-of-all-clients-1"


def token_ids() -> dict[str, str]:
    """The variable with which tiktoken finds OpenAI's encoding, which litellm ships, on disk."""
    found = find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "litellm_core_utils" / "tokenizers"
    return {"TIKTOKEN_CACHE_DIR": str(folder)}


@pytest.fixture(scope="session")
def uri(
    tmp_path_factory: pytest.TempPathFactory, predictor: TorchPredictor, images: list[bytes]
) -> str:
    root = tmp_path_factory.mktemp("served")
    return write_collections(root, predictor, {"pictures": images, "others": [image_bytes(100)]})


@pytest.fixture(scope="session")
def item_ids(uri: str) -> list[str]:
    """Ids of the items of `pictures`, in the order of `images`."""
    return item_ids_of(uri)


@pytest.fixture(scope="session")
def process(uri: str, predictor: TorchPredictor) -> Iterator[ServerProcess]:
    """A service with one key for both collections, and one for `others` only."""
    root = Path(uri).parent
    keys = root / "keys.json"
    keys.write_text(
        f'{{"{KEY}": {{"name": "all"}}, "key-of-bert-in-the-tests-of-clients": '
        '{"name": "bert", "collections": ["others"], "writable": false}}'
    )
    names = ("--collection", "pictures", "--collection", "others", "--keys", str(keys))
    arguments = ("--uri", uri, *names, "--model", predictor.source)
    with serving(*arguments, cache=root / "cache", environment=token_ids()) as running:
        yield running
