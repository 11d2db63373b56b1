from pathlib import Path

import numpy as np
import pytest

from coca.experimental.detection.detecting import load_detector
from tiny_detector import CLASSES, write_detector


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
