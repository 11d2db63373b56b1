import numpy as np
import pytest

pytest.importorskip("cohere", reason="`make test-clients` installs cohere")

import cohere

from coca.predict.torch_predictor import TorchPredictor
from server_process import ServerProcess

# Warnings of the client, which also leaves connections open.
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ["two dogs play", "a red car", "a cat"]


def test_documents_are_reranked(process: ServerProcess, predictor: TorchPredictor) -> None:
    client = cohere.Client(api_key="key-of-the-tests-of-all-clients-1", base_url=process.url)
    found = client.rerank(model="coca", query="a red car", documents=TEXTS, top_n=2).results
    cosines = predictor.embed_texts(TEXTS) @ predictor.embed_texts(["a red car"])[0]
    assert [one.index for one in found] == np.argsort(-cosines)[:2].tolist()
    scores = [one.relevance_score for one in found]
    assert scores == pytest.approx(((1 + np.sort(cosines)[::-1][:2]) / 2).tolist(), abs=1e-4)
