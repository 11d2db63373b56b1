from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coca
from coca.core.errors import DataError
from coca.predict.torch_predictor import TorchPredictor
from tiny_data import CAPTIONS

pytestmark = pytest.mark.integrations
peer = pytest.importorskip("sentence_transformers", reason="`make test-integrations` installs it")
ours = pytest.importorskip("coca.release.adapters.sentence_transformers")

TEXTS = list(CAPTIONS[:3])


def test_a_saved_folder_loads_by_its_path(
    folder: Path, predictor: TorchPredictor, images: list[Path]
) -> None:
    model = peer.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert model.get_embedding_dimension() == predictor.embed_dim
    assert model.max_seq_length == predictor.processor.context_length
    # Texts are sorted by length and batched, and the order of the output is that of the input.
    texts = model.encode(TEXTS, batch_size=2)
    np.testing.assert_allclose(texts, predictor.embed_texts(TEXTS), atol=1e-5)
    wanted = predictor.embed_images(images)
    opened = [Image.fromarray(np.asarray(Image.open(BytesIO(it.read_bytes())))) for it in images]
    for given in ([str(path) for path in images], opened, [{"image": one} for one in opened]):
        np.testing.assert_allclose(model.encode(given, batch_size=2), wanted, atol=1e-5)
    similarity = model.similarity(model.encode([str(images[0])]), texts)
    np.testing.assert_allclose(similarity, wanted[:1] @ predictor.embed_texts(TEXTS).T, atol=1e-5)


def test_a_folder_is_refused_without_trust_remote_code(folder: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        peer.SentenceTransformer(str(folder), device="cpu")


def test_a_prompt_precedes_texts(folder: Path, predictor: TorchPredictor) -> None:
    model = ours.sentence_transformer(folder, device="cpu")
    found = model.encode(["cat"], prompt="a photo of the ")
    np.testing.assert_allclose(found, predictor.embed_texts("a photo of the cat"), atol=1e-5)


def test_what_sentence_transformers_saves_is_a_model_folder(
    folder: Path, predictor: TorchPredictor, tmp_path: Path
) -> None:
    ours.sentence_transformer(folder, device="cpu").save(str(tmp_path / "again"))
    assert coca.load(tmp_path / "again", device="cpu").fingerprint == predictor.fingerprint
    again = peer.SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(
        again.encode(TEXTS), ours.sentence_transformer(predictor, device="cpu").encode(TEXTS)
    )


def test_the_weights_learn(folder: Path) -> None:
    model = ours.sentence_transformer(folder, device="cpu")
    features = model.preprocess(TEXTS)
    model(features)["sentence_embedding"].sum().backward()
    trained = [name for name, one in model.named_parameters() if one.grad is not None]
    assert any("unimodal" in name for name in trained)


def test_a_batch_of_texts_and_images_is_refused(folder: Path, images: list[Path]) -> None:
    module = ours.CoCaModule.of(folder)
    with Image.open(images[0]) as image, pytest.raises(DataError, match="got image and text"):
        module.preprocess(["a cat", image])
