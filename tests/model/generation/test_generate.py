import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.processing.word_constraint import WordConstraint
from tiny import caption_logits
from tiny_openclip import ARCHITECTURES, image_tokens, random_images, writer
from transformers_generation import peer_captions

GREEDY = GenerationConfig(num_beams=1, max_new_tokens=6)
WAYS = {
    "greedy": GREEDY,
    "beams": GenerationConfig(num_beams=4, num_return_sequences=3, max_new_tokens=6),
    "samples": GenerationConfig(temperature=1.2, num_return_sequences=5, seed=3, max_new_tokens=6),
    "nucleus": GenerationConfig(top_p=0.8, num_return_sequences=2, seed=4, max_new_tokens=6),
    "processors": GenerationConfig(
        num_beams=2, repetition_penalty=1.4, no_repeat_ngram_size=2, min_new_tokens=3
    ),
}
"""One config of each decoding strategy."""


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> CoCa:
    return writer(request.param)


def prompts_of(model: CoCa) -> list[list[int]]:
    """Prompts of different lengths."""
    bos = model.config.text.bos_id
    return [[bos], [bos, 7, 9, 5], [bos, 6], [bos, 7, 9, 5], [bos, 5, 5], [bos]]


def uncached(
    model: CoCa, image: Tensor, prompt: list[int], steps: int
) -> tuple[list[int], list[float]]:
    """Decode one image without a cache: the reference of greedy decoding."""
    text, ids, scores = model.config.text, list(prompt), []
    for _ in range(steps):
        logits = caption_logits(model, image[None], torch.tensor([ids]))[0, -1]
        log_ps = F.log_softmax(logits, dim=0)
        log_ps[list(text.suppress_tokens)] = -torch.inf
        log_p, word = log_ps.max(dim=0)
        scores.append(log_p.item())
        if word.item() == text.eos_id:
            break
        ids.append(int(word))
    return ids[len(prompt) :], scores


def test_cached_decoding_equals_uncached_token_for_token(model: CoCa) -> None:
    prompts = prompts_of(model)
    found = generate(model, image_tokens(model, 6), prompts=prompts, decoding=GREEDY)
    for image, prompt, (one,) in zip(random_images(6), prompts, found, strict=True):
        with torch.no_grad():
            words, scores = uncached(model, image, prompt, 6)
        assert one.token_ids == words
        assert one.log_probabilities == pytest.approx(scores, abs=1e-5)
        assert one.ended == (len(scores) > len(words))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 5},
    ],
    ids=str,
)
def test_greedy_equals_that_of_transformers(model: CoCa, options: dict[str, Any]) -> None:
    prompt, tokens = [model.config.text.bos_id, 7], image_tokens(model, 6)
    wanted = peer_captions(model, tokens, prompt=prompt, max_new_tokens=7, **options)
    decoding = GenerationConfig(num_beams=1, max_new_tokens=7, **options)
    found = generate(model, tokens, prompts=[prompt] * 6, decoding=decoding)
    eos = model.config.text.eos_id
    assert [row[0].token_ids + [eos] * row[0].ended for row in found] == [
        row[0][0] for row in wanted
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_equals_its_rows_alone(model: CoCa, way: str) -> None:
    prompts, tokens = prompts_of(model), image_tokens(model, 6)
    together = generate(model, tokens, prompts=prompts, decoding=WAYS[way])
    for number, (row, prompt) in enumerate(zip(together, prompts, strict=True)):
        image, own = tokens[number, None], [number]
        (alone,) = generate(model, image, prompts=[prompt], decoding=WAYS[way], images=own)
        assert [one.token_ids for one in row] == [one.token_ids for one in alone]
        for one, other in zip(row, alone, strict=True):
            assert one.ended == other.ended
            assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)


WORDS = ([5], [6, 11], [7, 11, 12], [8, 13], [8, 13, 11])
MARKS = [9, 10]


def is_listed(ids: list[int]) -> bool:
    """Return whether token ids are whole words and marks."""
    text = "".join(map(chr, ids))
    pieces = ["".join(map(chr, word)) for word in (*WORDS, *([mark] for mark in MARKS))]
    return re.fullmatch("|".join(map(re.escape, pieces)).join(("(?:", ")*")), text) is not None


@pytest.mark.parametrize("budget", [1, 3, 6, None])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_generated_has_listed_words_only(model: CoCa, way: str, budget: int | None) -> None:
    text, prompts = model.config.text, prompts_of(model)
    constraint = WordConstraint(WORDS, MARKS, eos_id=text.eos_id, vocab_size=20)
    changes = {"max_new_tokens": budget, "min_new_tokens": min(budget or 3, 3)}
    decoding = GenerationConfig(**{**vars(WAYS[way]), **changes})
    rows = generate(
        model, image_tokens(model, 6), prompts=prompts, decoding=decoding, constraint=constraint
    )
    assert all(is_listed(one.token_ids) for row in rows for one in row)
    assert all(row for row in rows)


@pytest.mark.parametrize("way", WAYS)
def test_a_list_of_all_tokens_changes_nothing(model: CoCa, way: str) -> None:
    text, tokens = model.config.text, image_tokens(model, 6)
    every = [[id_] for id_ in range(20) if id_ not in (*text.suppress_tokens, text.eos_id)]
    constraint = WordConstraint(every, [], eos_id=text.eos_id, vocab_size=20)
    free = generate(model, tokens, decoding=WAYS[way])
    assert generate(model, tokens, decoding=WAYS[way], constraint=constraint) == free


@pytest.mark.parametrize("way", WAYS)
def test_the_context_is_used_up_and_never_outgrown(model: CoCa, way: str) -> None:
    text = model.config.text
    prompts = [
        [text.bos_id, *[7] * (text.max_text_tokens - token_budget)]
        for token_budget in (1, 2, text.max_text_tokens)
    ]
    decoding = GenerationConfig(**{**vars(WAYS[way]), "max_new_tokens": None, "min_new_tokens": 40})
    found = generate(model, image_tokens(model), prompts=prompts, decoding=decoding)
    for row, token_budget in zip(found, (1, 2, text.max_text_tokens), strict=True):
        assert {len(one.token_ids) for one in row} == {token_budget}
        assert not any(one.ended for one in row)


def test_no_image_gives_no_caption(model: CoCa) -> None:
    assert generate(model, image_tokens(model)[:0]) == []


def test_captions_begin_where_none_is_given(model: CoCa) -> None:
    tokens, bos = image_tokens(model), model.config.text.bos_id
    assert generate(model, tokens) == generate(model, tokens, prompts=[[bos]] * 3)


def test_half_precision_generates_nearly_the_same(model: CoCa) -> None:
    full = generate(model, image_tokens(model, 6), decoding=WAYS["beams"])
    model.to(torch.bfloat16)
    tokens = model.image_tokens(random_images(6).to(torch.bfloat16)).detach()
    half = generate(model, tokens, decoding=WAYS["beams"])
    ranks = [[row[0].rank for row in rows] for rows in (full, half)]
    assert ranks[1] == pytest.approx(ranks[0], abs=0.2)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([[]] * 3, "begins with"),
        ([[7]] * 3, "begins with"),
        ([[1, *range(5, 20)]] * 3, "leaves no room"),
        ([[1]] * 2, "2 prompts do not fit 3 images"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(prompts: list[list[int]], words: str) -> None:
    model = writer("coca")
    with pytest.raises(ConfigError, match=words):
        generate(model, image_tokens(model), prompts=prompts)
