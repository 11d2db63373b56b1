from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError, ModelError
from coca.experimental.detection.detecting import Detection, drawn, load_detector
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


def _pixels() -> np.ndarray:
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def test_a_threshold_leaves_out_what_is_less_sure(tmp_path: Path) -> None:
    detector = load_detector(write_detector(tmp_path / "model"), device="cpu")
    every = detector.detect(image_bytes(0), threshold=0.0)[0]
    middle = sorted(one.score for one in every)[len(every) // 2]
    kept = detector.detect([image_bytes(0)], threshold=middle)[0]
    assert kept == [one for one in every if one.score >= middle]
    with pytest.raises(ConfigError, match="threshold must be"):
        detector.detect(image_bytes(0), threshold=2.0)


def test_an_image_that_cannot_be_read_and_a_model_without_detector_are_reported(
    tmp_path: Path,
) -> None:
    detector = load_detector(write_detector(tmp_path / "model"), device="cpu")
    with pytest.raises(DataError):
        detector.detect([image_bytes(0), b"no image"])
    with pytest.raises(ModelError, match="has no detector"):
        load_detector(write_model(tmp_path / "plain"), device="cpu")


def test_boxes_are_drawn_where_they_are() -> None:
    gray = np.full((40, 60, 3), 128, np.uint8)
    found = [Detection("cat", 0.9, (10.0, 20.0, 30.0, 35.0))]
    made = drawn(gray, found, shortest_px=80)
    assert made.size == (120, 80)
    changed = (np.asarray(made) != 128).any(-1)
    # The edges, at twice the size; the middle is left free.
    assert changed[40:70, 20].all()
    assert changed[70, 20:60].all()
    assert not changed[58:66, 26:54].any()
    assert not changed[:, 100:].any()
