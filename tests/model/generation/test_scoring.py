import pytest
import torch
from torch import Tensor

from coca.model.coca import CoCa
from coca.model.generation import scoring
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.model.generation.scoring import score_captions, scored_lengths
from coca.model.losses.captioning_loss import captioning_loss
from tiny_openclip import ARCHITECTURES, image_tokens, random_images, writer

WORDS = [[5, 6, 7], [], [9], [5, 6, 7, 4, 4, 12, 8], [11, 10], [5, 6, 7]]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> CoCa:
    return writer(request.param)


def prepack(model: CoCa, words: list[list[int]], *, width: int = 12) -> Tensor:
    text = model.config.text
    cls = [text.cls_id] if hasattr(text, "cls_id") else []
    rows = [[text.bos_id, *row, text.eos_id, *cls] for row in words]
    return torch.tensor([row + [text.pad_id] * (width - len(row)) for row in rows])


def loss_of(model: CoCa, image: Tensor, row: Tensor) -> float:
    """Compute the training loss of one pair, summed over its tokens."""
    with torch.no_grad():
        states, targets = model(image[None], row[None]).decoded.labelled()
        loss = captioning_loss(states, targets, model.vocabulary_weight)
    return float(loss) * len(targets)


@pytest.mark.parametrize("rows", [4096, 20, 1])
def test_a_score_is_the_training_loss_of_the_pair(
    model: CoCa, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ROWS_PER_CHUNK", rows)
    monkeypatch.setattr(scoring, "LOGIT_ROWS_PER_CHUNK", 7)
    monkeypatch.setattr(scoring, "IMAGES_PER_CHUNK", 2)
    tokens = prepack(model, WORDS)
    scores = score_captions(model, image_tokens(model, 5), tokens)
    for image, row in zip(random_images(5), scores.tolist(), strict=True):
        wanted = [-loss_of(model, image, text) for text in tokens]
        assert row == pytest.approx(wanted, abs=1e-4, rel=1e-5)


def test_a_token_without_label_counts_neither_in_the_score_nor_in_the_length() -> None:
    model = writer("openclip")
    tokens = prepack(model, [[5, 0, 7], [5, 6, 7]])
    scores = score_captions(model, image_tokens(model, 2), tokens)
    wanted = [[-loss_of(model, image, text) for text in tokens] for image in random_images(2)]
    assert torch.allclose(scores, torch.tensor(wanted), atol=1e-4)
    assert scored_lengths(model, tokens).tolist() == [3, 4]


def test_lengths_count_the_tokens_and_the_end(model: CoCa) -> None:
    tokens = prepack(model, WORDS)
    assert scored_lengths(model, tokens).tolist() == [len(words) + 1 for words in WORDS]


def test_scores_equal_the_log_probabilities_of_generation(model: CoCa) -> None:
    tokens = image_tokens(model, 4)
    decoding = GenerationConfig(num_beams=6, num_return_sequences=6, max_new_tokens=9)
    for row_number, row in enumerate(generate(model, tokens, decoding=decoding)):
        ended = [one for one in row if one.ended]
        if ended:
            texts = prepack(model, [one.token_ids for one in ended])
            scores = score_captions(model, tokens[row_number : row_number + 1], texts)[0]
            assert scores.tolist() == pytest.approx([one.total for one in ended], abs=1e-4)


def test_only_the_pairs_asked_for_are_scored(model: CoCa) -> None:
    tokens, images = prepack(model, WORDS), image_tokens(model, 4)
    only = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    only[2] = False
    every = score_captions(model, images, tokens)
    some = score_captions(model, images, tokens, only=only)
    assert torch.allclose(some[only], every[only], atol=1e-5)
    assert (some[~only] == -torch.inf).all()


def test_padding_and_company_change_no_score(model: CoCa) -> None:
    images = image_tokens(model, 3)
    together = score_captions(model, images, prepack(model, WORDS))
    for text, words in enumerate(WORDS):
        alone = score_captions(model, images[1:2], prepack(model, [words], width=len(words) + 3))
        assert float(alone) == pytest.approx(float(together[1, text]), abs=1e-4)


def test_nothing_scores_nothing(model: CoCa) -> None:
    images, tokens = image_tokens(model, 2), prepack(model, WORDS)
    assert score_captions(model, images[:0], tokens).shape == (0, 6)
    assert score_captions(model, images, tokens[:0]).shape == (2, 0)
