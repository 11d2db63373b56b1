"""Image-text models of sentence-transformers, built by it with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")

import sentence_transformers

import coca
from coca.core.errors import ModelError
from tiny_image_text import TEXTS, awkward_images, upright_rgb, write_sentence_transformers

LIBRARY: Any = sentence_transformers
pytestmark = pytest.mark.integrations


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_vectors_equal_those_of_sentence_transformers(family: str, tmp_path: Path) -> None:
    folder = write_sentence_transformers(tmp_path, family)
    loaded = coca.load(f"st:{folder}", device="cpu", batch_size=7)
    model = LIBRARY.SentenceTransformer(str(folder), device="cpu")
    images = awkward_images()
    of_images = model.encode([upright_rgb(it) for it in images], normalize_embeddings=True)
    # SigLIP is trained with texts of one length.
    padding = {"padding": "max_length", "max_length": 24} if "siglip" in family else {}
    of_texts = model.encode(TEXTS, normalize_embeddings=True, processing_kwargs={"text": padding})
    np.testing.assert_allclose(loaded.embed_images(images), of_images, atol=1e-6, rtol=0)
    prepared = [loaded.prepare_image(it) for it in images]
    np.testing.assert_allclose(loaded.embed_prepared(prepared), of_images, atol=1e-6, rtol=0)
    np.testing.assert_allclose(loaded.embed_texts(TEXTS), of_texts, atol=1e-6, rtol=0)
    assert (of_images @ of_images.T).min() < 0.9999
    assert (loaded.embed_dim, loaded.has_decoder) == (of_images.shape[1], False)
    assert len(loaded.leading_ids("word " * 90, 5)) == 5
    assert coca.load(folder, device="cpu").fingerprint == loaded.fingerprint


def test_a_text_is_never_opened_as_an_image(tmp_path: Path) -> None:
    loaded = coca.load(write_sentence_transformers(tmp_path), device="cpu")
    image = tmp_path / "photo.png"
    image.write_bytes(awkward_images()[0])
    (of_path,), (of_image,) = loaded.embed_texts(str(image)), loaded.embed_images(image)
    assert of_path @ of_image < 0.999
    assert np.isfinite(loaded.embed_texts("https://localhost:1/photo.jpg")).all()


def test_a_model_of_texts_is_an_error(tmp_path: Path) -> None:
    import transformers

    library: Any = transformers
    config = library.BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    write_sentence_transformers(tmp_path, "siglip")
    library.BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer = library.AutoTokenizer.from_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "bert")
    from sentence_transformers.sentence_transformer import modules

    words = modules.Transformer(str(tmp_path / "bert"))
    pooling = modules.Pooling(32)
    LIBRARY.SentenceTransformer(modules=[words, pooling], device="cpu").save(
        str(tmp_path / "texts")
    )
    with pytest.raises(ModelError, match="embeds text, and no image"):
        coca.load(tmp_path / "texts", device="cpu")
    with pytest.raises(ModelError, match=r"st:.* is not a model of the kind st"):
        coca.load(f"st:{tmp_path / 'source'}")
