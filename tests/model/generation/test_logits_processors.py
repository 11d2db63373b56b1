import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coca.model.coca_config import TextDecoderConfig
from coca.model.generation.logits_processors import NO_TOKEN, LogitsProcessors
from coca.runtime.generation_config import GenerationConfig
from tiny import BOS, CLS, EOS, PAD, tiny_config

TEXT: TextDecoderConfig = tiny_config().text


def apply(
    decoding: GenerationConfig, token_ids: list[int], *, step: int = 9, padded: int = 0
) -> Tensor:
    """Apply the processors to logits 1, 2, 3 and so on."""
    logits = torch.arange(1.0, 51.0).view(1, 1, -1)
    row = torch.tensor([[[NO_TOKEN] * padded + token_ids]])
    LogitsProcessors(decoding, TEXT).apply_(logits, step=step, token_ids=row)
    return logits[0, 0]


def test_special_tokens_except_eos_are_suppressed() -> None:
    logits = apply(GenerationConfig(), [BOS, 7])
    assert logits[[PAD, BOS, CLS]].tolist() == [-torch.inf] * 3
    assert logits.isfinite().sum() == 47


def test_eos_is_suppressed_before_the_minimum_length() -> None:
    decoding = GenerationConfig(min_new_tokens=3)
    assert [bool(apply(decoding, [BOS], step=step)[EOS].isfinite()) for step in range(5)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_repeated_tokens_lose_score_for_either_sign() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 3.0, -3.0, 3.0, -3.0]]])
    processors = LogitsProcessors(GenerationConfig(repetition_penalty=1.5), TEXT)
    processors.apply_(logits, step=1, token_ids=torch.tensor([[[BOS, 4, 5, 4]]]))
    assert logits[0, 0, 4:].tolist() == [2.0, -4.5, 3.0, -3.0]


def test_log_probabilities_are_penalised_below_their_normaliser() -> None:
    logits = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0))
    token_ids = torch.tensor([[[BOS, 9, 9], [BOS, 7, 4]]])
    normaliser = logits.logsumexp(dim=2)
    wanted = logits - normaliser[:, :, None]
    processors = LogitsProcessors(GenerationConfig(repetition_penalty=1.5), TEXT)
    processors.apply_(logits, step=2, token_ids=token_ids, normaliser=normaliser)
    found = logits - normaliser[:, :, None]
    for beam, repeated in enumerate([[9], [7, 4]]):
        other = [word for word in range(4, 50) if word not in repeated]
        assert torch.allclose(found[0, beam, repeated], 1.5 * wanted[0, beam, repeated])
        assert torch.allclose(found[0, beam, other], wanted[0, beam, other], atol=1e-6)


@given(
    words=st.lists(st.integers(4, 8), max_size=12),
    size=st.integers(1, 4),
    padded=st.integers(0, 3),
)
def test_an_ngram_is_blocked_exactly_if_it_occurred(
    words: list[int], size: int, padded: int
) -> None:
    token_ids = [BOS, *words]
    logits = apply(GenerationConfig(no_repeat_ngram_size=size), token_ids, padded=padded)
    runs = {tuple(token_ids[at : at + size]) for at in range(len(token_ids) - size + 1)}
    for word in range(4, 9):
        again = tuple([*token_ids, word][-size:]) in runs and len(token_ids) >= size
        assert bool(logits[word] == -torch.inf) == again


@pytest.mark.parametrize(
    ("decoding", "uses_history", "rescales"),
    [
        (GenerationConfig(min_new_tokens=2), False, False),
        (GenerationConfig(no_repeat_ngram_size=2), True, False),
        (GenerationConfig(repetition_penalty=1.1), True, True),
    ],
)
def test_processors_declare_their_inputs(
    decoding: GenerationConfig, uses_history: bool, rescales: bool
) -> None:
    processors = LogitsProcessors(decoding, TEXT)
    assert (processors.uses_history, processors.rescales) == (uses_history, rescales)
