from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import ConfigError
from coca.inference.predictor import Predictor

mteb = pytest.importorskip("mteb", reason="it is not installed")
ours = pytest.importorskip("coca.experimental.adapters.mteb")

TASK: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}


def test_vectors_are_those_of_the_predictor(predictor: Predictor, images: list[Path]) -> None:
    encoder = ours.CoCaEncoder(predictor)
    opened = [Image.open(path).convert("RGB") for path in images]
    texts = [f"{number} red cars" for number in range(len(images))]
    wanted = predictor.embed_images(images), predictor.embed_texts(texts)
    found = encoder.encode([{"image": opened[:2]}, {"image": opened[2:]}], **TASK)
    np.testing.assert_allclose(found, wanted[0], atol=1e-5)
    np.testing.assert_allclose(encoder.encode([{"text": texts}], **TASK), wanted[1], atol=1e-5)
    both = encoder.encode([{"image": opened, "text": texts}], **TASK)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    sums = wanted[0] + wanted[1]
    np.testing.assert_allclose(both, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-5)
    assert encoder.encode([], **TASK).shape == (0, predictor.embed_dim)
    with pytest.raises(ConfigError, match="must have images or texts, got audio"):
        encoder.encode([{"audio": [1]}], **TASK)


@pytest.mark.timeout(1_200)
@pytest.mark.filterwarnings("ignore")
def test_every_kind_of_task_for_images_and_texts_runs(predictor: Predictor) -> None:
    results = mteb.mock_run(ours.CoCaEncoder(predictor))
    assert results.all_passed, results.to_markdown()
    ran = [name for name, result in results.items() if result is not None]
    assert {"MockImageClassification", "MockAny2AnyRetrievalT2I"} <= set(ran)
