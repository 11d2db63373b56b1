"""Scores of samples with one right class, and the cases that a report gets."""

import numpy as np

from coca.data.sample import Sample
from coca.tasks.classification.recognition import classified
from coca.tasks.task import thumbnail
from tiny_data import image_bytes

NAMES = ["ant", "bee", "cat"]
LOGITS = np.log(
    [[0.9, 0.05, 0.05], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype=np.float32
)
TARGETS = np.array([0, 1, 2, 0])


def clip(row: int) -> Sample:
    first, *others = (image_bytes(10 * row + frame) for frame in range(3))
    return Sample(str(row), first, others=tuple(others))


def test_the_surest_are_shown_first_with_their_middle_frame_and_what_they_are() -> None:
    result = classified("any", LOGITS, TARGETS, NAMES, (), samples=[clip(row) for row in range(4)])
    right, wrong = result.report_samples.rows
    assert [case.lines for case in right.examples] == [
        ("ant (90%)", "true: ant (90%)"),
        ("bee (50%)", "true: bee (50%)"),
    ]
    assert [case.lines for case in wrong.examples] == [
        ("bee (80%)", "true: cat (10%)"),
        ("cat (40%)", "true: ant (30%)"),
    ]
    assert [case.image for case in wrong.examples] == [
        thumbnail(image_bytes(21)),
        thumbnail(image_bytes(31)),
    ]
    assert [case.correct for case in right.examples + wrong.examples] == [True, True, False, False]


def test_without_images_the_scores_are_the_same_and_no_examples_are_kept() -> None:
    plain = classified("any", LOGITS, TARGETS, NAMES, (), learned_from=7)
    assert plain.report_samples.rows == ()
    assert plain.metrics["top1"] == 0.5
    assert plain.metrics["majority_top1"] == 0.5
    assert plain.metrics["mean_per_class"] == 0.5
    assert (plain.details["learned_from"], plain.details["worst_classes"][0]) == (7, "cat")


def test_five_classes_and_fewer_are_not_compared_by_top_5() -> None:
    assert classified("any", LOGITS, TARGETS, NAMES, ()).headline == ("top1",)
    six = np.pad(LOGITS, ((0, 0), (0, 3)))
    more = classified("any", six, TARGETS, [*NAMES, "dog", "eel", "fox"], ())
    assert more.headline == ("top1", "top5")
