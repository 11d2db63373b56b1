"""What is shown more than once is encoded once, and answered as if it stood alone."""

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

import coca
from coca.core.config.execution import Precision
from coca.core.errors import ConfigError, DataError
from coca.model.coca_config import HeadConfig
from coca.predict.inputs import expand_positions, unique_samples
from coca.predict.torch_predictor import TorchPredictor
from tiny_data import image_bytes
from tiny_datasets import ANSWERS
from tiny_model import answering, text_head
from tiny_run import Bars, recording

QUESTIONS = ["what is it?", "yes", "is it red? is it 2?", "no", "what", "2", "it is red", "no yes"]
SHOWN = [0, 1, 0, 2, 1, 0, 3, 0]
"""Which image each question is about."""


@contextmanager
def counted(predictor: TorchPredictor) -> Iterator[list[int]]:
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


IMAGES = [image_bytes(number) for number in range(7)]
TEXTS = ["a red car", "", "two dogs play", "the small cat sleeps on a long wooden bench", "a"]
LABELS = ["car", "small cat", "dogs", "bench"]
# A batch is one larger matrix product; fp32 sums in another order.
assert_near = functools.partial(assert_allclose, rtol=1e-4, atol=1e-5)


def of_size(predictor: TorchPredictor, batch_size: int) -> TorchPredictor:
    return TorchPredictor(
        predictor.model,
        predictor.processor,
        fingerprint=predictor.fingerprint,
        batch_size=batch_size,
    )


@pytest.mark.parametrize(("what", "inputs"), [("images", IMAGES), ("texts", TEXTS)])
def test_inputs_become_unit_vectors_that_differ(
    predictor: TorchPredictor, what: str, inputs: list[Any]
) -> None:
    vectors = getattr(predictor, f"embed_{what}")(inputs)
    assert vectors.shape == (len(inputs), predictor.embed_dim) == (len(inputs), 24)
    assert vectors.dtype == np.float32
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ vectors.T)[~np.eye(len(inputs), dtype=bool)].max() < 0.9999


def test_prepacked_weights_change_nothing_but_the_time(
    predictor: TorchPredictor, folder: Path
) -> None:
    plain = coca.load(folder, device="cpu", prepack=False)
    assert_near(predictor.embed_images(IMAGES), plain.embed_images(IMAGES))
    assert_near(predictor.embed_texts(TEXTS), plain.embed_texts(TEXTS))
    assert_near(predictor.score(IMAGES, TEXTS), plain.score(IMAGES, TEXTS))
    for beams in (1, 3):
        one, other = (it.caption(IMAGES, num_beams=beams) for it in (predictor, plain))
        assert [caption.text for caption in one] == [caption.text for caption in other]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_changes_no_answer(predictor: TorchPredictor, batch_size: int) -> None:
    other = of_size(predictor, batch_size)
    assert_near(other.embed_images(IMAGES), predictor.embed_images(IMAGES))
    assert_near(other.embed_texts(TEXTS), predictor.embed_texts(TEXTS))
    words = [caption.text for caption in predictor.caption(IMAGES)]
    assert [caption.text for caption in other.caption(IMAGES)] == words
    assert [row[0].label for row in other.classify(IMAGES, LABELS)] == [
        row[0].label for row in predictor.classify(IMAGES, LABELS)
    ]


def test_every_kind_of_image_gives_the_same_vector(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(IMAGES[0])
    opened = Image.open(io.BytesIO(IMAGES[0]))
    kinds: list[Any] = [IMAGES[0], path, str(path), opened, np.array(opened)]
    vectors = predictor.embed_images(kinds)
    assert_near(vectors, np.repeat(vectors[:1], len(kinds), axis=0))
    for kind in kinds:
        assert predictor.embed_images(kind).shape == (1, 24)


def test_nothing_in_gives_nothing_out(predictor: TorchPredictor) -> None:
    assert predictor.embed_images([]).shape == (0, 24)
    assert predictor.embed_texts([]).shape == (0, 24)
    assert predictor.caption([]) == []
    assert predictor.classify([], LABELS) == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_full(
    folder: Path, predictor: TorchPredictor, precision: Precision
) -> None:
    half = coca.load(folder, device="cpu", precision=precision)
    for one, other in (
        (half.embed_images(IMAGES), predictor.embed_images(IMAGES)),
        (half.embed_texts(TEXTS), predictor.embed_texts(TEXTS)),
    ):
        assert one.dtype == np.float32
        assert ((one * other).sum(axis=1) / np.linalg.norm(one, axis=1)).min() > 0.99
    assert len(half.caption(IMAGES)) == len(IMAGES)
    assert_allclose(sum(it.probability for it in half.classify(IMAGES[0], LABELS)[0]), 1, 1e-5)


def test_probabilities_are_the_softmax_of_scaled_cosines(predictor: TorchPredictor) -> None:
    cosines = predictor.embed_images(IMAGES[0]) @ predictor.embed_texts(LABELS).T
    wanted = torch.softmax(predictor.model.logit_scale.detach() * torch.from_numpy(cosines), dim=1)
    found = {one.label: one.probability for one in predictor.classify(IMAGES[0], LABELS)[0]}
    assert_allclose([found[label] for label in LABELS], wanted[0].numpy(), rtol=1e-3)


def test_a_class_embedding_is_the_renormalised_mean_over_prompts(predictor: TorchPredictor) -> None:
    templates = ("a {}", "the long {}", "{} play")
    vectors = predictor.class_embeddings(LABELS, templates=templates)
    for label, vector in zip(LABELS, vectors, strict=True):
        mean = predictor.embed_texts([t.replace("{}", label) for t in templates]).mean(axis=0)
        assert_near(vector, mean / np.linalg.norm(mean))


def test_progress_counts_every_item(predictor: TorchPredictor) -> None:
    bars: Bars = {}
    small = of_size(predictor, 3)
    with recording(bars):
        small.embed_images(IMAGES)
        small.embed_texts(TEXTS)
        small.caption(IMAGES)
    assert {title: bar.count for title, bar in bars.items()} == {
        ("embedding images", 7): 7,
        ("embedding texts", 5): 5,
        ("captioning", 7): 7,
    }


def test_a_batch_of_nothing_is_refused(predictor: TorchPredictor) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        of_size(predictor, 0)


@pytest.fixture
def some_bad(tmp_path: Path) -> list[str]:
    """Seven images of which the second, the third and the last cannot be read."""
    paths = [str(tmp_path / f"{number}.png") for number in range(7)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(image_bytes(number))
    Path(paths[1]).write_bytes(b"no image")
    Path(paths[2]).unlink()
    Path(paths[6]).write_bytes(image_bytes(6)[:60])
    return paths


def test_unreadable_images_are_skipped_in_every_batch(
    predictor: TorchPredictor, some_bad: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    small, good = of_size(predictor, 1), [0, 3, 4, 5]
    readable = [some_bad[it] for it in good]
    with pytest.raises(DataError):
        small.embed_images(some_bad)
    vectors = small.embed_images(some_bad, on_error="skip")
    assert np.isnan(vectors).all(axis=1).tolist() == [it not in good for it in range(7)]
    assert_near(vectors[good], predictor.embed_images(readable))
    assert [Path(path).name in caplog.text for path in some_bad] == [
        it not in good for it in range(7)
    ]
    scores = small.score(some_bad, TEXTS, on_error="skip")
    assert np.isnan(scores).all(axis=1).tolist() == [it not in good for it in range(7)]
    assert_near(scores[good], predictor.score(readable, TEXTS))
    captions = small.caption(some_bad, on_error="skip", max_new_tokens=3)
    assert [bool(caption.error) for caption in captions] == [it not in good for it in range(7)]
    assert "1.png" in captions[1].error
    assert [captions[it].text for it in good] == [
        caption.text for caption in predictor.caption(readable, max_new_tokens=3)
    ]
    labels = small.classify(some_bad, LABELS, on_error="skip")
    assert [len(one) for one in labels] == [4 if it in good else 0 for it in range(7)]
    likely = small.classify(some_bad, LABELS, by="likelihood", on_error="skip")
    assert [len(one) for one in likely] == [4 if it in good else 0 for it in range(7)]


def test_prompts_and_masks_stay_with_their_images(
    predictor: TorchPredictor, some_bad: list[str]
) -> None:
    good = [0, 3, 4, 5]
    prompts = [f"{it}" for it in range(7)]
    captions = predictor.caption(some_bad, prompt=prompts, on_error="skip", max_new_tokens=1)
    assert [captions[it].text[0] for it in good] == [prompts[it] for it in good]
    only = np.eye(7, 5, dtype=bool)
    scores = predictor.score(some_bad, TEXTS, only=only, on_error="skip")
    assert np.isfinite(scores[good]).tolist() == only[good].tolist()


def test_a_fine_tuned_model_classifies_without_labels(some_bad: list[str]) -> None:
    head = answering(HeadConfig(classes=("cat", "dog"), heads=2))
    assert head.classify(some_bad[:1]) == head.answer(some_bad[:1])
    skipped = head.classify(some_bad, on_error="skip")
    assert [len(one) for one in skipped] == [2, 0, 0, 2, 2, 2, 0]
    with pytest.raises(ConfigError, match="apply to labels, and none are given"):
        head.classify(some_bad[:1], by="likelihood")


def test_labels_are_needed_without_a_head_for_images(predictor: TorchPredictor) -> None:
    for model in (predictor, answering(text_head(("a", "b")))):
        with pytest.raises(ConfigError, match="give labels, such as"):
            model.classify(IMAGES)


def test_a_model_without_classes_has_no_class_vectors(predictor: TorchPredictor) -> None:
    assert predictor.class_vectors is None
