"""What is shown more than once is encoded once, and answered as if it stood alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coca.inference.predictor import Predictor
from coca.inference.repeats import expand_positions, unique_samples
from tiny_answers import answering, text_head
from tiny_data import image_bytes
from tiny_questions import ANSWERS

QUESTIONS = ["what is it?", "yes", "is it red? is it 2?", "no", "what", "2", "it is red", "no yes"]
SHOWN = [0, 1, 0, 2, 1, 0, 3, 0]
"""Which image each question is about."""


@contextmanager
def counted(predictor: Predictor) -> Iterator[list[int]]:
    """Counts the images of each batch that goes through the image encoder."""
    counts: list[int] = []

    def count(module: Any, inputs: tuple[Any, ...]) -> None:
        counts.append(len(inputs[0]))

    hook = predictor.model.image_encoder.register_forward_pre_hook(count)
    yield counts
    hook.remove()


@pytest.mark.parametrize("images_per_sample", [1, 2])
def test_each_image_is_encoded_once_and_each_question_answered_as_alone(
    images_per_sample: int,
) -> None:
    predictor = answering(text_head(ANSWERS, images_per_sample=images_per_sample))
    samples = [
        [image_bytes(number), image_bytes(number + 9)][:images_per_sample] for number in SHOWN
    ]
    alone = [
        predictor.head_logits([sample], [question])[0]
        for sample, question in zip(samples, QUESTIONS, strict=True)
    ]
    assert np.ptp(alone, axis=0).max() > 0.01  # they differ, so a wrong order would show
    with counted(predictor) as counts:
        together = predictor.head_logits(samples, QUESTIONS)
    assert sum(counts) == len({*SHOWN}) * images_per_sample
    # Products of other shapes: the last digits of fp32.
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_generated_answers_are_those_of_each_question_alone() -> None:
    predictor = answering(None)
    images = [image_bytes(number) for number in SHOWN]
    options: Any = {"num_beams": 2, "max_new_tokens": 3}
    alone = [
        predictor.caption(image, prompt=question, **options)[0].completion
        for image, question in zip(images, QUESTIONS, strict=True)
    ]
    with counted(predictor) as counts:
        together = predictor.caption(images, prompt=QUESTIONS, **options)
    assert sum(counts) == len({*SHOWN})
    assert [one.completion for one in together] == alone


def test_files_are_one_by_their_path_and_opened_images_by_being_the_same() -> None:
    image = Image.new("RGB", (4, 4))
    samples = ["a.png", Path("b"), image, "a.png", image.copy(), image, (b"x", "a"), [b"x", "a"]]
    first, positions = unique_samples(samples)
    assert positions == [[0, 3], [1], [2, 5], [4], [6, 7]]
    assert all(one is samples[found[0]] for one, found in zip(first, positions, strict=True))


@pytest.mark.parametrize("size", [1, 2, 5, 99])
def test_expanded_positions_are_each_position_once_and_never_more_than_asked(size: int) -> None:
    positions = [[0, 3, 4], [1], [2, 5]]
    parts = [*expand_positions(positions, size)]
    assert all(len(rows) == len(wanted) <= size for rows, wanted in parts)
    pairs = [pair for part in parts for pair in zip(*part, strict=True)]
    assert pairs == [(0, 0), (0, 3), (0, 4), (1, 1), (2, 2), (2, 5)]
