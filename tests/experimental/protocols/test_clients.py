"""Unmodified clients of Infinity and of Cohere's second version."""

from collections.abc import Iterator

import numpy as np
import pytest

from coca.inference.predictor import Predictor
from server_process import ServerProcess, serving
from tiny_collection import write_collections

# Warnings of the clients, which also leave connections open.
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ["two dogs play", "a red car", "a cat"]


@pytest.fixture(scope="module")
def process(
    predictor: Predictor, images: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    uri = write_collections(root, predictor, {"pictures": images[:1]})
    with serving("--uri", uri, "--model", predictor.source, cache=root / "cache") as running:
        yield running


def order(predictor: Predictor) -> list[int]:
    cosines = predictor.embed_texts(TEXTS) @ predictor.embed_texts(["a red car"])[0]
    return np.argsort(-cosines).tolist()


def test_cohere_v2_ranks_documents(process: ServerProcess, predictor: Predictor) -> None:
    cohere = pytest.importorskip("cohere", reason="cohere is not installed")
    client = cohere.ClientV2(api_key="any", base_url=process.url)
    results = client.rerank(model="coca", query="a red car", documents=TEXTS).results
    assert [result.index for result in results] == order(predictor)


def test_litellm_knows_infinity(process: ServerProcess, predictor: Predictor) -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    options = {"model": "infinity/coca", "api_base": process.url, "api_key": "any"}
    results = litellm.rerank(query="a red car", documents=TEXTS, **options).results
    assert [result["index"] for result in results] == order(predictor)
    assert [result["document"]["text"] for result in results] == [
        TEXTS[result["index"]] for result in results
    ]
    vectors = [row["embedding"] for row in litellm.embedding(input=TEXTS, **options).data]
    assert np.allclose(vectors, predictor.embed_texts(TEXTS), atol=1e-5)
