import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.generation import greedy
from coca.model.losses import captioning_loss, contrastive_loss
from tiny import BOS, CLS, EOS, PAD, caption, tiny_config


def uncached(
    model: CoCa, image: Tensor, prompt: list[int], steps: int
) -> tuple[list[int], list[float]]:
    """One picture, the whole caption again for each word: the reference."""
    ids, scores = list(prompt), []
    for _ in range(steps):
        logits = model.caption_logits(image[None], torch.tensor([ids]))[0, -1].clone()
        logits[[PAD, BOS, CLS]] = -torch.inf
        log_p, word = F.log_softmax(logits, dim=0).max(dim=0)
        scores.append(log_p.item())
        if word.item() == EOS:
            break
        ids.append(int(word))
    return ids[len(prompt) :], scores


@pytest.mark.parametrize("prompt", [[BOS], [BOS, 7, 20]])
def test_cached_decoding_equals_uncached_word_for_word(
    tiny_model: CoCa, images: Tensor, prompt: list[int]
) -> None:
    out = greedy(tiny_model, images, prompt=torch.tensor(prompt), max_words=9)
    for row, image in enumerate(images):
        with torch.no_grad():
            words, scores = uncached(tiny_model, image, prompt, 9)
        assert out.token_ids[row] == words
        assert out.log_probabilities[row] == pytest.approx(scores, abs=1e-5)


def test_a_batch_equals_its_rows_alone(tiny_model: CoCa, images: Tensor) -> None:
    together = greedy(tiny_model, images).token_ids
    assert together == [greedy(tiny_model, image[None]).token_ids[0] for image in images]


def test_a_caption_never_outgrows_the_context(tiny_model: CoCa, images: Tensor) -> None:
    longest = max(map(len, greedy(tiny_model, images, max_words=99).token_ids))
    assert longest <= tiny_model.config.text.context_length - 3 + 1


@pytest.mark.parametrize(
    ("prompt", "words"),
    [([], "begins with"), ([7], "begins with"), ([BOS, *range(5, 20)], "leaves no room")],
)
def test_a_prompt_that_cannot_be_continued_is_refused(
    tiny_model: CoCa, images: Tensor, prompt: list[int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        greedy(tiny_model, images, prompt=torch.tensor(prompt, dtype=torch.int64))


def test_six_pairs_are_learned_and_captioned_word_for_word() -> None:
    torch.manual_seed(0)
    model = CoCa(tiny_config()).train()
    images = torch.randn(6, 3, 16, 16)
    sentences = [[7, 8, 9], [7, 8, 10], [11], [12, 13, 14, 15, 16], [9, 8, 7], [20, 7]]
    tokens = torch.tensor([caption(*words, length=8) for words in sentences])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        out = model(images, tokens)
        loss = contrastive_loss(out.image_embedding, out.text_embedding, model.logit_scale)
        loss = loss + 2 * captioning_loss(
            out.caption_states, out.caption_targets, model.vocabulary_weight
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.clamp_temperature_()
    model.eval()
    assert greedy(model, images).token_ids == sentences
    similarity = model.encode_image(images) @ model.encode_text(tokens).T
    assert similarity.argmax(dim=0).tolist() == list(range(6))
    assert similarity.argmax(dim=1).tolist() == list(range(6))
