import base64
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="`make test-clients` installs openai")

import openai

from coca.predict.torch_predictor import TorchPredictor
from server_process import ServerProcess

TEXTS = ["a red car", "two dogs play"]
KEY = "key-of-the-tests-of-all-clients-1"


def embed(process: ServerProcess, *, key: str = KEY, **options: object) -> list[Any]:
    with openai.OpenAI(base_url=f"{process.url}/v1", api_key=key, max_retries=0) as client:
        data = client.embeddings.create(input=TEXTS, model="coca", **options).data
        return [one.embedding for one in data]


def test_embeddings_are_those_of_the_model(
    process: ServerProcess, predictor: TorchPredictor
) -> None:
    # The client asks for base64 by itself, and decodes it.
    assert np.allclose(embed(process), predictor.embed_texts(TEXTS), atol=1e-5)
    floats = embed(process, encoding_format="float")
    assert np.allclose(floats, predictor.embed_texts(TEXTS), atol=1e-5)
    encoded = embed(process, encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(str(one)), "<f4") for one in encoded]
    assert np.allclose(decoded, floats, atol=1e-6)


def test_a_wrong_key_is_an_authentication_error(process: ServerProcess) -> None:
    with pytest.raises(openai.AuthenticationError, match="a valid key is needed"):
        embed(process, key="wrong-key")


def test_the_model_is_retrieved(process: ServerProcess) -> None:
    with openai.OpenAI(base_url=f"{process.url}/v1", api_key=KEY, max_retries=0) as client:
        (model,) = client.models.list()
        assert client.models.retrieve(model.id) == model
        with pytest.raises(openai.NotFoundError, match="this service has"):
            client.models.retrieve("nosuch")


def test_token_ids_are_decoded(process: ServerProcess, predictor: TorchPredictor) -> None:
    with openai.OpenAI(base_url=f"{process.url}/v1", api_key=KEY, max_retries=0) as client:
        ids = [64, 2579, 1841]  # "a red car"
        for given in (ids, [ids]):
            found = client.embeddings.create(input=given, model="coca").data[0].embedding
            assert np.allclose(found, predictor.embed_texts(TEXTS[:1])[0], atol=1e-5)
        for unknown in ([10**6], [100_300], [2**70]):
            with pytest.raises(openai.BadRequestError, match="token id"):
                client.embeddings.create(input=unknown, model="coca")
