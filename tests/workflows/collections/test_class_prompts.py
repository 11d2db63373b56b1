"""Classification among the classes of a collection."""

from pathlib import Path

import numpy as np
import pytest

import coca
from coca.workflows.collections.class_prompts import classify_by
from tiny_data import image_bytes
from tiny_model import write_model


def test_every_class_has_its_share_however_many_there_are(tmp_path: Path) -> None:
    predictor = coca.load(write_model(tmp_path), device="cpu", prepack=False)
    count = 1_500
    drawn = np.random.default_rng(0).standard_normal((count, predictor.embed_dim))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    labels = [f"class {n}" for n in range(count)]
    (found,) = classify_by(predictor, labels, vectors, [image_bytes(0)])
    assert {one.label for one in found} == set(labels)
    assert sum(one.probability for one in found) == pytest.approx(1)
    cosines = vectors @ predictor.embed_images([image_bytes(0)])[0]
    assert [one.label for one in found[:3]] == [labels[n] for n in np.argsort(-cosines)[:3]]
