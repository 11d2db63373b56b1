from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import DataError, ModelError
from coca.experimental.detection.detecting import load_detector
from tiny_data import image_bytes
from tiny_detector import CLASSES, write_detector
from tiny_model import write_model


def test_boxes_are_in_pixels_of_images_of_any_size(tmp_path: Path) -> None:
    detector = load_detector(write_detector(tmp_path / "model"), device="cpu")
    assert detector.classes == CLASSES
    # Of one colour, so that both become the same square to the bit: the boxes differ by the scale
    # alone, in the same order.
    even = np.full((16, 16, 3), 90, dtype=np.uint8)
    wide = np.full((32, 64, 3), 90, dtype=np.uint8)
    plain, stretched = detector.detect([even, wide], threshold=0.0)
    assert plain
    for one, other in zip(plain, stretched, strict=True):
        scaled = tuple(edge * by for edge, by in zip(one.box, (4, 2, 4, 2), strict=True))
        assert other.box == pytest.approx(scaled, abs=0.1)
        assert other.label == one.label


def test_an_image_that_cannot_be_read_and_a_model_without_detector_are_reported(
    tmp_path: Path,
) -> None:
    detector = load_detector(write_detector(tmp_path / "model"), device="cpu")
    with pytest.raises(DataError):
        detector.detect([image_bytes(0), b"no image"])
    with pytest.raises(ModelError, match="has no detector"):
        load_detector(write_model(tmp_path / "plain"), device="cpu")
