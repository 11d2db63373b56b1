import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from coca.core.errors import ConfigError, ModelError
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.processing.word_vectors import WordVectors
from coca.train.backward import backward
from coca.train.distillation import SentenceConfig, SentenceTeacher, sentence_loss
from coca.train.distributed.parallel import ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from tiny import caption, captioner, encode_letters, images

SENTENCES = ("a cat", "a kitten", "a red car", "an auto", "the sea", "an ocean", "a tree")


@pytest.fixture
def table() -> WordVectors:
    return WordVectors(SENTENCES, np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32))


@pytest.fixture
def teacher(table: WordVectors) -> SentenceTeacher:
    return SentenceTeacher(table, encode_letters)


@pytest.fixture
def model() -> CoCa:
    return captioner("convnet")


@pytest.fixture
def batch() -> Batch:
    # Different captions: with equal ones, rounding decides which of two is the nearest.
    words = [(7, 8, 9), (11,), (4, 5), (9, 7), (8,), (5, 11, 4)]
    rows = [caption(*it, length=8) for it in words]
    return Batch(images("convnet", 6), torch.tensor(rows), tuple("abcdef"), 0)


def by_hand(texts: np.ndarray, vectors: np.ndarray, temperature: float) -> float:
    """The mean divergence over all ordered pairs of different sentences."""

    def likely(rows: np.ndarray) -> np.ndarray:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        powers = np.exp(rows @ rows.T / temperature)
        np.fill_diagonal(powers, 0)
        return powers / powers.sum(axis=1, keepdims=True)

    target, student = likely(vectors), likely(texts)
    different = ~np.eye(len(texts), dtype=bool)
    divergences = target[different] * np.log(target[different] / student[different])
    return float(divergences.sum() / len(texts))


def objective(teacher: SentenceTeacher, **weights: float) -> CoCaObjective:
    zero = {"contrastive_weight": 0.0, "captioning_weight": 0.0}
    sentences = SentenceConfig(path=Path("unread"), count=4, temperature=0.2)
    return CoCaObjective(
        LossConfig(**zero | weights, sentences=sentences),  # type: ignore[arg-type]
        teacher=teacher,
    )


def test_the_loss_is_the_divergence_of_the_relations(
    model: CoCa, teacher: SentenceTeacher, table: WordVectors
) -> None:
    drawn = teacher.draw(len(SENTENCES), torch.device("cpu"))
    with torch.no_grad():
        texts = model.encode_text(drawn.tokens).double().numpy()
        found = sentence_loss(model, drawn, temperature=0.2)
    expected = by_hand(texts, drawn.vectors.double().numpy(), 0.2)
    assert_allclose(found.item(), expected, rtol=1e-4)
    assert expected > 0.1


def test_a_teacher_that_the_model_equals_teaches_nothing(model: CoCa) -> None:
    with torch.no_grad():
        own = model.encode_text(encode_letters(SENTENCES)).numpy()
    drawn = SentenceTeacher(WordVectors(SENTENCES, own), encode_letters).draw(
        7, torch.device("cpu")
    )
    with torch.no_grad():
        # Vectors are kept in half precision.
        assert sentence_loss(model, drawn, temperature=0.2).item() < 1e-4


def test_drawn_sentences_differ_and_have_their_own_vectors(
    teacher: SentenceTeacher, table: WordVectors
) -> None:
    torch.manual_seed(0)
    draws = [teacher.draw(4, torch.device("cpu")) for _ in range(20)]
    unit = table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
    keys = [tuple(row.tolist()) for row in encode_letters(SENTENCES)]
    rows = dict(zip(keys, unit, strict=True))
    for drawn in draws:
        tokens = [tuple(row.tolist()) for row in drawn.tokens]
        assert len(set(tokens)) == 4
        assert_allclose(drawn.vectors.numpy(), [rows[row] for row in tokens], atol=1e-3)
    assert {tuple(row.tolist()) for drawn in draws for row in drawn.tokens} == rows.keys()


@pytest.mark.parametrize("weights", [{}, {"contrastive_weight": 1.0, "captioning_weight": 1.0}])
def test_micro_batches_have_the_gradients_of_the_whole_batch_in_every_step(
    model: CoCa, teacher: SentenceTeacher, batch: Batch, weights: dict[str, float]
) -> None:
    target = objective(teacher, sentence_weight=0.5, **weights)
    results = []
    for micro_batch in (None, 4):
        torch.manual_seed(3)
        parallel = ParallelModel(model, "none", device=torch.device("cpu"))
        for _ in range(2):
            model.zero_grad()
            losses = backward(parallel, target, batch, micro_batch=micro_batch)
            gradients = {n: it.grad for n, it in model.named_parameters() if it.grad is not None}
            results.append((losses, gradients))
    for (whole, expected), (parts, found) in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(parts.parts, whole.parts)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    first, second = (losses.parts["sentence"] for losses, _ in results[:2])
    assert 0 < first != second > 0  # each step draws its own sentences


def test_the_text_embedding_learns_the_relations(model: CoCa, teacher: SentenceTeacher) -> None:
    drawn = teacher.draw(7, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sentence_loss(model, drawn, temperature=0.2)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 4


def test_a_file_with_too_few_sentences_is_refused(table: WordVectors, tmp_path: Path) -> None:
    table.save(tmp_path / "s.safetensors")
    config = SentenceConfig(path=tmp_path / "s.safetensors", count=7)
    assert len(SentenceTeacher.load(config, encode_letters)) == 7
    with pytest.raises(ConfigError, match=r"has 7 sentences, but loss\.sentences\.count is 8"):
        SentenceTeacher.load(dataclasses.replace(config, count=8), encode_letters)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set loss.sentences.path, or the weight to 0"):
        SentenceTeacher.load(SentenceConfig(), encode_letters)
    with pytest.raises(ModelError, match=r"none.safetensors cannot be read"):
        SentenceTeacher.load(SentenceConfig(path=tmp_path / "none.safetensors"), encode_letters)
