import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from coca.model.coca import CoCa
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GeneratedSequence, GenerationConfig
from tiny import caption_logits
from tiny_openclip import ARCHITECTURES, image_tokens, random_images, writer
from transformers_generation import peer_captions

COUNT = 6


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> CoCa:
    return writer(request.param)


@pytest.fixture
def tokens(model: CoCa) -> Tensor:
    return image_tokens(model, COUNT)


def ids_of(caption: GeneratedSequence, model: CoCa) -> list[int]:
    return caption.token_ids + [model.config.text.eos_id] * caption.ended


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0},
    {"length_penalty": -1.0},
    {"length_penalty": -0.5},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": 4},
    {
        "repetition_penalty": 0.8,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 2,
        "length_penalty": 0.5,
    },
)


@pytest.mark.parametrize(
    ("architecture", "options"),
    # The search does not know the architecture; the last options use its ids of tokens.
    [*(("coca", options) for options in OPTIONS), ("openclip", {}), ("openclip", OPTIONS[-1])],
    ids=str,
)
def test_beams_equal_those_of_transformers(architecture: str, options: dict[str, Any]) -> None:
    model = writer(architecture)
    tokens, prompt = image_tokens(model, COUNT), [model.config.text.bos_id, 7]
    for beams, count in ((2, 1), (4, 4), (7, 3)):
        wanted = peer_captions(
            model,
            tokens,
            prompt=prompt,
            max_new_tokens=8,
            num_beams=beams,
            num_return_sequences=count,
            early_stopping=False,
            **options,
        )
        decoding = GenerationConfig(
            num_beams=beams, num_return_sequences=count, max_new_tokens=8, **options
        )
        found = generate(model, tokens, prompts=[prompt] * COUNT, decoding=decoding)
        assert [[ids_of(one, model) for one in row] for row in found] == [
            [ids for ids, _ in row] for row in wanted
        ]
        for row, others in zip(found, wanted, strict=True):
            assert [one.rank for one in row] == pytest.approx(
                [rank for _, rank in others], abs=1e-5, rel=1e-6
            )


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_enough_beams_find_what_trying_every_caption_finds(
    architecture: str, length_penalty: float
) -> None:
    model, steps = writer(architecture, vocabulary=8), 3
    text = model.config.text
    words = sorted(set(range(8)) - {*text.suppress_tokens, text.eos_id})
    every = [
        [*row, *end]
        for length in range(steps + 1)
        for row in itertools.product(words, repeat=length)
        for end in ([[text.eos_id]] if length < steps else [[]])
    ]
    ranked = []
    for ids in every:
        with torch.no_grad():
            logits = caption_logits(model, random_images(1), torch.tensor([[text.bos_id, *ids]]))[0]
        log_ps = logits.log_softmax(dim=1)[range(len(ids)), ids]
        ranked.append((float(log_ps.sum()) / len(ids) ** length_penalty, ids))
    ranked.sort(reverse=True)
    decoding = GenerationConfig(
        num_beams=len(every),
        num_return_sequences=len(every),
        max_new_tokens=steps,
        length_penalty=length_penalty,
    )
    (found,) = generate(model, image_tokens(model, 1), decoding=decoding)
    assert [ids_of(one, model) for one in found] == [ids for _, ids in ranked]
    assert [one.rank for one in found] == pytest.approx([rank for rank, _ in ranked], abs=1e-5)


def test_penalties_change_the_choice_but_not_the_reported_probabilities(
    model: CoCa, tokens: Tensor
) -> None:
    decoding = GenerationConfig(
        num_beams=3, num_return_sequences=3, repetition_penalty=2.0, max_new_tokens=6
    )
    text, images = model.config.text, random_images(COUNT)
    for image, row in zip(images, generate(model, tokens, decoding=decoding), strict=True):
        for one in row:
            ids = ids_of(one, model)
            with torch.no_grad():
                logits = caption_logits(model, image[None], torch.tensor([[text.bos_id, *ids]]))[0]
            wanted = logits.log_softmax(dim=1)[range(len(ids)), ids].tolist()
            assert one.log_probabilities == pytest.approx(wanted, abs=1e-5)
