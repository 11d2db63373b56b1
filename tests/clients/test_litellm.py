import numpy as np
import pytest

pytest.importorskip("litellm", reason="`make test-clients` installs litellm")

import litellm

from coca.predict.torch_predictor import TorchPredictor
from server_process import ServerProcess

# Warnings of the client, which also leaves connections open.
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ["two dogs play", "a red car", "a cat"]
KEY = "key-of-the-tests-of-all-clients-1"


@pytest.mark.parametrize("provider", ["cohere", "jina_ai"])
def test_documents_are_reranked(
    process: ServerProcess, predictor: TorchPredictor, provider: str
) -> None:
    found = litellm.rerank(
        model=f"{provider}/coca",
        query="a red car",
        documents=TEXTS,
        api_base=f"{process.url}/v1/rerank",
        api_key=KEY,
    ).results
    cosines = predictor.embed_texts(TEXTS) @ predictor.embed_texts(["a red car"])[0]
    assert [one["index"] for one in found] == np.argsort(-cosines).tolist()
