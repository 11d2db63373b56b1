from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from coca.model.coca import CoCa
from coca.model.pretrained import assemble
from coca.model.word_map import WordMap, add_word_map_, folded
from tiny import caption, sharpened, tiny_config

LEARNED, SIZE = 12, 6


def model_with_map(*, initialized: bool, tied: bool = False) -> CoCa:
    torch.manual_seed(0)
    config = tiny_config()
    config = replace(config, text=replace(config.text, tie_embeddings=tied))
    model = sharpened(CoCa(config))
    embedding = model.unimodal_decoder.token_embedding
    add_word_map_(embedding, word_vectors(model), learned=LEARNED, initialized=initialized)
    return model


def word_vectors(model: CoCa) -> Tensor:
    """Vectors of all tokens but the first six, of unit length."""
    rows = model.config.text.vocab_size
    vectors = nn.functional.normalize(torch.randn(rows, SIZE), dim=1)
    vectors[:6] = 0
    return vectors


def word_map(embedding: nn.Embedding) -> WordMap:
    (found,) = (it for it in embedding.modules() if isinstance(it, WordMap))
    return found


def outputs(model: CoCa) -> list[Tensor]:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([caption(7, 14, 9, length=8), caption(11, length=8)])
    with torch.no_grad():
        found = model.eval()(images, tokens)
    logits = found.caption_states @ model.vocabulary_weight.T
    return [found.image_embedding, found.text_embedding, logits]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("initialized", [False, True])
def test_a_folded_model_computes_what_the_map_does(tied: bool, initialized: bool) -> None:
    model = model_with_map(initialized=initialized, tied=tied)
    plain = assemble(model.config, folded(model.state_dict()), source="a test")
    for one, other in zip(outputs(model), outputs(plain), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one, other)


def test_a_map_of_trained_rows_changes_no_output() -> None:
    torch.manual_seed(0)
    before = outputs(sharpened(CoCa(tiny_config())))
    for one, other in zip(before, outputs(model_with_map(initialized=True)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_map_is_recovered_from_the_rows_of_its_words() -> None:
    first = model_with_map(initialized=False).unimodal_decoder.token_embedding
    added = word_map(first)
    plain = nn.Embedding.from_pretrained(first.weight.detach().clone(), freeze=False)
    add_word_map_(plain, added.vectors, learned=LEARNED, initialized=True)
    torch.testing.assert_close(word_map(plain).mapping, added.mapping)


def test_words_of_no_caption_train_the_shared_map_only() -> None:
    embedding = model_with_map(initialized=False).unimodal_decoder.token_embedding
    free, mapping = (parameter for _, parameter in sorted(embedding.named_parameters())[::-1])
    embedding(torch.tensor([4, 8, LEARNED, LEARNED + 1])).square().sum().backward()
    assert free.grad is not None
    assert mapping.grad is not None
    rows = free.grad.abs().sum(dim=1)
    # Neither a vector nor learned: its free row is all that it has.
    assert rows[4] > 0
    assert rows[8] > 0
    assert not rows[LEARNED:].any()
    assert mapping.grad.abs().sum() > 0


def test_new_rows_of_similar_words_are_similar() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(40, 64)
    vectors = nn.functional.normalize(torch.randn(40, SIZE), dim=1)
    vectors[1] = nn.functional.normalize(vectors[0] + 0.1 * torch.randn(SIZE), dim=0)
    add_word_map_(embedding, vectors, learned=20, initialized=False)
    cosine = nn.functional.cosine_similarity(embedding.weight[:1], embedding.weight[1:], dim=1)
    assert cosine.argmax() == 0
    # The size of a random initialization: 1 / sqrt(width) for each component.
    assert embedding.weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.2)
