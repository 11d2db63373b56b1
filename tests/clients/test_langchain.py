import numpy as np
import pytest

pytest.importorskip("langchain_openai", reason="`make test-clients` installs langchain-openai")

from langchain_openai import OpenAIEmbeddings

from clients.conftest import KEY, token_ids
from coca.predict.torch_predictor import TorchPredictor
from server_process import ServerProcess

# Warnings of the client, which also leaves connections open.
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ["a red car", "two dogs play"]


def test_the_client_with_its_defaults_sends_token_ids(
    process: ServerProcess, predictor: TorchPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in token_ids().items():
        monkeypatch.setenv(name, value)
    client = OpenAIEmbeddings(base_url=f"{process.url}/v1", api_key=KEY)
    assert np.allclose(client.embed_documents(TEXTS), predictor.embed_texts(TEXTS), atol=1e-5)
    assert np.allclose(client.embed_query(TEXTS[0]), predictor.embed_texts(TEXTS)[0], atol=1e-5)
