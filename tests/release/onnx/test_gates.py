"""Gates: which differences keep an export from being written."""

from dataclasses import replace
from pathlib import Path

import pytest

from coca.core.errors import ConfigError, ModelError
from coca.release.onnx.gates import GateResult, check
from coca.release.onnx.images import DRAWN, gate_images

PASSED = GateResult(
    images=40,
    image_source="a folder",
    min_image_cosine=0.99995,
    min_text_cosine=0.99995,
    min_file_cosine=0.999,
    max_pixel_difference=1,
    recall=0.8,
    torch_recall=0.8,
    equal_greedy_captions=1.0,
    equal_beam_captions=1.0,
)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"min_image_cosine": 0.9998}, "min_image_cosine must be at least 0.9999, got 0.999800"),
        ({"min_text_cosine": 0.5}, "min_text_cosine must be at least 0.9999, got 0.500000"),
        ({"recall": 0.78}, "recall@1 must lose at most 0.01, got 0.020"),
        ({"equal_beam_captions": 0.975}, "equal_beam_captions must be at least 1, got 0.975000"),
        ({"max_pixel_difference": 3}, "max_pixel_difference must be at most 2, got 3"),
    ],
)
def test_a_gate_that_is_not_met_is_named(fault: dict[str, float], message: str) -> None:
    check(PASSED, "fp32")
    with pytest.raises(ModelError, match=message):
        check(replace(PASSED, **fault), "fp32")  # type: ignore[arg-type]


def test_int8_may_change_some_captions_and_all_cosines() -> None:
    rounded = replace(PASSED, min_image_cosine=0.99, equal_greedy_captions=0.95, recall=0.795)
    check(rounded, "int8")
    with pytest.raises(ModelError, match=r"equal_greedy_captions must be at least 0\.95"):
        check(replace(rounded, equal_greedy_captions=0.94), "int8")


def test_drawn_images_are_equal_in_each_run_and_differ_from_each_other() -> None:
    first, again = gate_images(None), gate_images(None)
    assert len(first) == DRAWN
    assert first == again
    assert first[0] != first[1]


def test_few_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 8 images, got 0"):
        gate_images(tmp_path)
