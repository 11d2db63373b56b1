import itertools
from functools import partial
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from coca.core.errors import ConfigError
from coca.model.generation.generation_config import GenerationConfig, GenerationOptions
from coca.model.losses.captioning_loss import captioning_loss
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.video import caption_videos
from tiny import caption_logits
from tiny_data import image_bytes

IMAGES = [image_bytes(number) for number in range(5)]
TEXTS = ["a red car", "", "two dogs play", "the small cat sleeps on a long wooden bench", "a"]
LABELS = ["car", "small cat", "dogs", "bench"]


def test_the_options_of_a_call_are_the_fields_of_decoding() -> None:
    hints = get_type_hints(GenerationConfig)
    fields = {name: hints[name] for name in GenerationConfig.model_fields}
    assert get_type_hints(GenerationOptions) == fields


def test_an_unknown_option_is_refused_with_the_nearest_right_one(predictor: TorchPredictor) -> None:
    unknown: dict[str, Any] = {"num_beems": 2}
    for call in (predictor.caption, partial(caption_videos, predictor)):
        with pytest.raises(ConfigError, match="= 2 is unknown; did you mean 'num_beams'"):
            call([], **unknown)


def test_a_caption_is_what_the_model_believes_most(predictor: TorchPredictor) -> None:
    """The score is checked against the plain logits, and each token is the best at its position."""
    prompt = predictor.processor.tokenizer.encode_prompt("the small")
    caption = predictor.caption(IMAGES[0], prompt="the small", max_new_tokens=3, num_beams=1)[0]
    assert caption.text.startswith("the small")
    images = predictor.processor.images([IMAGES[0]])
    scores: list[float] = []
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(3):
            log_ps = caption_logits(predictor.model, images, torch.tensor([ids]))[
                0, -1
            ].log_softmax(0)
            log_ps[[0, 1, 3]] = -torch.inf
            best = int(log_ps.argmax())
            scores.append(float(log_ps[best]))
            if best == 2:
                break
            ids.append(best)
    assert caption.text == predictor.processor.tokenizer.decode(ids).strip()
    assert caption.token_ids == tuple(ids[len(prompt) :])
    assert caption.log_probabilities == pytest.approx(scores, abs=1e-5)
    assert caption.score == pytest.approx(sum(scores), abs=1e-4)
    assert caption.others == ()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_return_sequences": 3},
        {"num_beams": 1},
        {"temperature": 1.0, "num_return_sequences": 4, "seed": 2},
    ],
    ids=str,
)
def test_neither_the_batch_nor_its_size_changes_a_caption(
    predictor: TorchPredictor, options: Any
) -> None:
    few = TorchPredictor(predictor.model, predictor.processor, fingerprint="", batch_size=2)
    together = predictor.caption(IMAGES, max_new_tokens=5, **options)
    assert len(together) == 5
    for other in (
        few.caption(IMAGES, max_new_tokens=5, **options),
        [predictor.caption(one, max_new_tokens=5, **options)[0] for one in IMAGES],
    ):
        for one, same in zip(together, other, strict=True):
            assert len(one.others) == options.get("num_return_sequences", 1) - 1
            every = zip((one, *one.others), (same, *same.others), strict=True)
            for first, second in every:
                assert first.text == second.text
                assert first.score == pytest.approx(second.score, abs=1e-4)


def test_each_image_draws_numbers_of_its_own_in_any_batch(predictor: TorchPredictor) -> None:
    # Nearly uniform: tokens follow the numbers, and not the image.
    draw = partial(predictor.caption, temperature=1e6, max_new_tokens=6, words="any")
    together = [caption.token_ids for caption in draw(IMAGES)]
    assert len(set(together)) == len(IMAGES)
    assert [draw(image)[0].token_ids for image in IMAGES] == together
    assert [caption.token_ids for caption in draw(IMAGES[::-1])] == together[::-1]


def test_scores_are_the_training_loss_of_each_pair(predictor: TorchPredictor) -> None:
    images = predictor.processor.images(IMAGES)
    tokens = predictor.processor.texts(TEXTS)
    wanted = np.zeros((5, 5))
    lengths = np.zeros(5)
    for image_, text in itertools.product(range(5), range(5)):
        with torch.no_grad():
            output = predictor.model(images[image_, None], tokens[text, None])
            states, targets = output.decoded.labelled()
            loss = captioning_loss(states, targets, predictor.model.vocabulary_weight)
        lengths[text] = len(targets)
        wanted[image_, text] = -float(loss) * lengths[text]
    for batch_size in (2, 64):
        other = TorchPredictor(
            predictor.model, predictor.processor, fingerprint="", batch_size=batch_size
        )
        assert_allclose(other.score(IMAGES, TEXTS), wanted, rtol=1e-4)
        assert_allclose(other.score(IMAGES, TEXTS, by_length=True), wanted / lengths, rtol=1e-4)
        only = np.eye(5, dtype=bool)
        some = other.score(IMAGES, TEXTS, only=only)
        assert_allclose(some[only], wanted[only], rtol=1e-4)
        assert np.isneginf(some[~only]).all()


def test_likelihood_ranks_labels_by_how_probable_their_sentences_are(
    predictor: TorchPredictor,
) -> None:
    templates = ("a {}", "the long {}")
    found = predictor.classify(IMAGES, LABELS, templates=templates, by="likelihood")
    sentences = [template.replace("{}", label) for label in LABELS for template in templates]
    scores = predictor.score(IMAGES, sentences).reshape(5, 4, 2)
    chances = np.exp(scores).sum(axis=2)
    chances /= chances.sum(axis=1, keepdims=True)
    for row, wanted in zip(found, chances, strict=True):
        odds = {one.label: one.probability for one in row}
        assert_allclose([odds[label] for label in LABELS], wanted, rtol=1e-3)
        assert [one.probability for one in row] == sorted(odds.values(), reverse=True)


def test_class_likelihoods_are_means_over_the_templates(predictor: TorchPredictor) -> None:
    templates = ("a {}", "the long {}", "{}")
    found = predictor.class_log_likelihoods(IMAGES, LABELS, templates=templates)
    sentences = [template.replace("{}", label) for label in LABELS for template in templates]
    each = np.exp(predictor.score(IMAGES, sentences)).reshape(5, 4, 3)
    assert_allclose(found, np.log(each.mean(axis=2)), rtol=1e-4)
    only = np.arange(20).reshape(5, 4) % 3 == 0
    some = predictor.class_log_likelihoods(IMAGES, LABELS, templates=templates, only=only)
    assert_allclose(some[only], found[only], rtol=1e-4)
    assert np.isneginf(some[~only]).all()
