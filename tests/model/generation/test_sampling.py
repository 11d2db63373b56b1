from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from coca.model.coca import CoCa
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.model.generation.sampling import Sampler
from tiny_openclip import ARCHITECTURES, image_tokens, writer

DRAWS = 20_000


def drawn(logits: Tensor, **options: Any) -> Tensor:
    """Count how often each token is sampled first."""
    decoding = GenerationConfig(num_return_sequences=DRAWS, **options)
    choose = Sampler(decoding, images=[0], steps=1, device=torch.device("cpu"))
    words = choose(logits.expand(1, DRAWS, -1), rows=torch.arange(DRAWS)[None], step=0)
    return torch.bincount(words[0], minlength=len(logits)) / DRAWS


@pytest.mark.parametrize("vocabulary", [20, 1000])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"top_k": 7},
        {"top_k": 5000},
        {"top_p": 0.9},
        {"top_p": 1.0},
        {"top_p": 0.01},
        {"top_p": 0.6, "temperature": 2.0, "top_k": 12},
    ],
    ids=str,
)
def test_sampling_frequencies_equal_those_of_transformers(
    vocabulary: int, options: dict[str, Any]
) -> None:
    logits = 1.5 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    logits[3] = -torch.inf
    wanted = logits[None] / options.get("temperature", 1.0)
    if "top_k" in options:
        wanted = TopKLogitsWarper(options["top_k"])(None, wanted)
    if "top_p" in options:
        wanted = TopPLogitsWarper(options["top_p"])(None, wanted)
    chances = wanted.softmax(dim=1)[0]
    found = drawn(logits, **options)
    assert (found[chances == 0] == 0).all()
    # Four standard deviations of a fraction, and a tolerance of one token.
    spread = 4 * (chances * (1 - chances) / DRAWS).sqrt() + 2 / DRAWS
    assert ((found - chances).abs() <= spread).all()


def test_an_accelerator_without_64_bit_floats_samples_on_the_cpu() -> None:
    logits, rows = torch.randn(1, 5, 20), torch.arange(5)[None]
    words = []
    for device in ("cpu", "mps"):
        decoding = GenerationConfig(num_return_sequences=5, temperature=1.0)
        choose = Sampler(decoding, images=[0], steps=1, device=torch.device(device))
        words.append(choose(logits, rows=rows, step=0))
    assert torch.equal(*words)


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> CoCa:
    return writer(request.param)


def token_ids(model: CoCa, **options: Any) -> list[list[list[int]]]:
    decoding = GenerationConfig(max_new_tokens=6, **options)
    found = generate(model, image_tokens(model, 4), decoding=decoding)
    return [[one.token_ids for one in row] for row in found]


def test_the_same_seed_repeats_and_another_seed_differs(model: CoCa) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "num_return_sequences": 4}
    assert token_ids(model, seed=1, **options) == token_ids(model, seed=1, **options)
    assert token_ids(model, seed=1, **options) != token_ids(model, seed=2, **options)


def test_fewer_samples_are_the_first_of_more(model: CoCa) -> None:
    few = token_ids(model, temperature=1.0, num_return_sequences=2)
    many = token_ids(model, temperature=1.0, num_return_sequences=6)
    for some, others in zip(few, many, strict=True):
        assert all(ids in others for ids in some)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}], ids=str)
def test_the_narrowest_choice_is_greedy(model: CoCa, options: dict[str, Any]) -> None:
    assert token_ids(model, **options) == token_ids(model, num_beams=1)


def test_samples_come_likeliest_first_with_their_own_length(model: CoCa) -> None:
    decoding = GenerationConfig(temperature=1.5, num_return_sequences=12, max_new_tokens=6)
    lengths = set()
    for row in generate(model, image_tokens(model, 4), decoding=decoding):
        assert len(row) == 12
        ranks = [one.rank for one in row]
        assert ranks == sorted(ranks, reverse=True)
        for one in row:
            assert one.rank == one.total
            assert len(one.log_probabilities) == len(one.token_ids) + one.ended
            assert one.ended or len(one.token_ids) == 6
            lengths.add(len(one.token_ids))
    assert len(lengths) > 1
