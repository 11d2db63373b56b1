import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coca.model.config import TextDecoderConfig
from coca.model.generation.config import GenerationConfig
from coca.model.generation.logits_processors import NO_TOKEN, LogitsProcessors
from tiny import BOS, CLS, EOS, PAD, tiny_config

TEXT: TextDecoderConfig = tiny_config().text


def apply(
    decoding: GenerationConfig, written: list[int], *, step: int = 9, padded: int = 0
) -> Tensor:
    """What the rules make of logits 1, 2, 3 and so on."""
    logits = torch.arange(1.0, 51.0).view(1, 1, -1)
    row = torch.tensor([[[NO_TOKEN] * padded + written]])
    LogitsProcessors(decoding, TEXT).apply_(logits, step=step, written=row)
    return logits[0, 0]


def test_special_words_are_never_written_but_the_end_is() -> None:
    logits = apply(GenerationConfig(), [BOS, 7])
    assert logits[[PAD, BOS, CLS]].tolist() == [-torch.inf] * 3
    assert logits.isfinite().sum() == 47


def test_no_end_comes_before_the_least_number_of_words() -> None:
    decoding = GenerationConfig(min_new_tokens=3)
    assert [bool(apply(decoding, [BOS], step=step)[EOS].isfinite()) for step in range(5)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_repeated_words_lose_whatever_the_sign_of_their_score() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 3.0, -3.0, 3.0, -3.0]]])
    rules = LogitsProcessors(GenerationConfig(repetition_penalty=1.5), TEXT)
    rules.apply_(logits, step=1, written=torch.tensor([[[BOS, 4, 5, 4]]]))
    assert logits[0, 0, 4:].tolist() == [2.0, -4.5, 3.0, -3.0]


def test_log_probabilities_are_penalised_below_their_normaliser() -> None:
    logits = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0))
    written = torch.tensor([[[BOS, 9, 9], [BOS, 7, 4]]])
    normaliser = logits.logsumexp(dim=2)
    wanted = logits - normaliser[:, :, None]
    rules = LogitsProcessors(GenerationConfig(repetition_penalty=1.5), TEXT)
    rules.apply_(logits, step=2, written=written, normaliser=normaliser)
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
def test_a_run_of_words_is_forbidden_exactly_if_it_occurred(
    words: list[int], size: int, padded: int
) -> None:
    written = [BOS, *words]
    logits = apply(GenerationConfig(no_repeat_ngram_size=size), written, padded=padded)
    runs = {tuple(written[at : at + size]) for at in range(len(written) - size + 1)}
    for word in range(4, 9):
        again = tuple([*written, word][-size:]) in runs and len(written) >= size
        assert bool(logits[word] == -torch.inf) == again


@pytest.mark.parametrize(
    ("decoding", "look_back", "reweigh"),
    [
        (GenerationConfig(min_new_tokens=2), False, False),
        (GenerationConfig(no_repeat_ngram_size=2), True, False),
        (GenerationConfig(repetition_penalty=1.1), True, True),
    ],
)
def test_rules_say_what_they_need(
    decoding: GenerationConfig, look_back: bool, reweigh: bool
) -> None:
    rules = LogitsProcessors(decoding, TEXT)
    assert (rules.look_back, rules.reweigh) == (look_back, reweigh)
