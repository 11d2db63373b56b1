import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coca.model.coca_config import TextDecoderConfig
from coca.model.generation.decoding_rules import NO_TOKEN
from coca.model.generation.generation_config import GenerationConfig
from coca.model.generation.logits_processors import LogitsProcessors
from coca.processing.word_constraint import WordConstraint
from tiny import BOS, CLS, EOS, PAD, tiny_config

TEXT: TextDecoderConfig = tiny_config().text


def apply(
    decoding: GenerationConfig,
    token_ids: list[int],
    *,
    step: int = 9,
    padded: int = 0,
    constraint: WordConstraint | None = None,
) -> Tensor:
    """Apply the processors to logits 1, 2, 3 and so on."""
    logits = torch.arange(1.0, 51.0).view(1, 1, -1)
    row = torch.tensor([[[NO_TOKEN] * padded + token_ids]])
    LogitsProcessors(decoding, TEXT, constraint).apply_(
        logits, step=step, token_ids=row, token_budget=torch.tensor([20])
    )
    return logits[0, 0]


def test_special_tokens_except_eos_are_suppressed() -> None:
    logits = apply(GenerationConfig(), [BOS, 7])
    assert logits[[PAD, BOS, CLS]].tolist() == [-torch.inf] * 3
    assert logits.isfinite().sum() == 47


def test_log_probabilities_are_penalised_below_their_normaliser() -> None:
    logits = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0))
    token_ids = torch.tensor([[[BOS, 9, 9], [BOS, 7, 4]]])
    normaliser = logits.logsumexp(dim=2)
    wanted = logits - normaliser[:, :, None]
    processors = LogitsProcessors(GenerationConfig(repetition_penalty=1.5), TEXT)
    processors.apply_(
        logits,
        step=2,
        token_ids=token_ids,
        token_budget=torch.tensor([9]),
        normaliser=normaliser,
    )
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


def constraint_of(*words: list[int]) -> WordConstraint:
    return WordConstraint(words, [], eos_id=EOS, vocab_size=50)


def test_only_tokens_of_listed_words_and_the_end_are_left() -> None:
    constraint = constraint_of([7, 8], [9])
    prompt = [BOS, 30, 31]
    for generated, left in (([], [EOS, 7, 9]), ([7], [8]), ([7, 8], [EOS, 7, 9])):
        logits = apply(
            GenerationConfig(), prompt + generated, step=len(generated), constraint=constraint
        )
        assert logits.isfinite().nonzero()[:, 0].tolist() == left


def test_an_unfinished_word_is_finished_even_if_an_ngram_repeats() -> None:
    constraint = constraint_of([7, 8], [9])
    ids = [7, 8, 9, 7]
    decoding = GenerationConfig(no_repeat_ngram_size=2)
    logits = apply(decoding, [BOS, *ids], step=4, constraint=constraint)
    assert logits.isfinite().nonzero()[:, 0].tolist() == [8]
    # After the word, the rule forbids its continuation as before.
    logits = apply(decoding, [BOS, *ids, 8], step=5, constraint=constraint)
    assert logits.isfinite().nonzero()[:, 0].tolist() == [EOS, 7]


def test_the_end_is_left_if_it_is_the_only_token_before_the_minimum_length() -> None:
    decoding = GenerationConfig(no_repeat_ngram_size=1, min_new_tokens=9)
    logits = apply(decoding, [BOS, 7], step=1, constraint=constraint_of([7]))
    assert logits.isfinite().nonzero()[:, 0].tolist() == [EOS]
