"""Gates: which differences keep an export from being written."""

from dataclasses import replace

import numpy as np
import pytest

from coca.core.errors import ModelError
from coca.release.onnx.gates import EmbeddingResult, GateResult, check, mean_recall

PASSED = GateResult(
    images=40,
    image_source="a folder",
    texts=40,
    min_image_cosine=0.99995,
    min_text_cosine=0.99995,
    max_difference=1e-5,
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
        ({"recall": 0.78}, "mean recall must lose at most 0.01, got 0.0200"),
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


def test_the_mean_recall_counts_ties_as_found() -> None:
    texts = np.eye(20)
    assert mean_recall(texts, texts) == 1
    # Two equal captions: each of both images is as near to one as to the other.
    texts[1] = texts[0]
    assert mean_recall(texts, texts) == 1
    # Without two images in their places, eighteen of twenty are first in each direction.
    swapped = np.eye(20)[[1, 0, *range(2, 20)]]
    assert mean_recall(swapped, np.eye(20)) == pytest.approx((18 + 20 + 20) / 60)


EMBEDDED = EmbeddingResult(
    images=40,
    image_source="a folder",
    texts=10,
    min_image_cosine=0.99995,
    min_text_cosine=0.99995,
    max_difference=1e-5,
)


@pytest.mark.parametrize("cosine", [0.9, float("nan")])
def test_an_image_text_model_is_bound_by_its_cosines_in_int8_too(cosine: float) -> None:
    check(replace(EMBEDDED, min_text_cosine=0.96), "int8")
    with pytest.raises(ModelError, match=r"min_text_cosine must be at least 0\.9999, got 0\.96"):
        check(replace(EMBEDDED, min_text_cosine=0.96), "fp32")
    with pytest.raises(ModelError, match=r"40 images .* and 10 texts: min_image_cosine"):
        check(replace(EMBEDDED, min_image_cosine=cosine), "int8")


def test_a_cosine_that_is_not_a_number_is_a_fault() -> None:
    # An exported graph that overflows gives NaN, which is below no bound.
    with pytest.raises(ModelError, match=r"min_image_cosine must be at least 0\.9999, got nan"):
        check(replace(PASSED, min_image_cosine=float("nan")), "fp32")
