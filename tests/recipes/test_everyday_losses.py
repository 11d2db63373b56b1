"""The plug-in `recipes/pretrain/everyday_losses.py`: its losses against sums by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file
from torch import Tensor, nn

from coca.data.batch import Batch
from coca.model.class_coca import ClassCoCa, ClassTokens
from coca.model.coca import CoCa
from coca.model.encoders.timm import TimmConfig
from coca.model.lora import merged
from coca.model.pretrained import assemble
from coca.train.losses import LossConfig, Losses
from coca.train.objective import CoCaObjective
from coca.workflows.training.init_weights import class_texts
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from everyday_plugin import register_losses
from tiny import (
    caption,
    captioner,
    encode_letters,
    images,
    seed_weights,
    sharpened,
    tiny_config,
)
from tiny_run import read_metrics
from tiny_workflows import recipe, stopping_at, write_squares
from word_vectors import WordVectors

SENTENCES = ("a cat", "a kitten", "a red car", "an auto", "the sea", "an ocean", "a tree")
CLASSES = ("cat, kitty", "dog", "red car, auto, motorcar", "tree", "house", "sea, ocean", "cup")
PROCESSOR: Any = SimpleNamespace(texts=encode_letters)


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    return register_losses(monkeypatch)


NOUNS: tuple[dict[str, Any], ...] = (
    {"words": ["animal"], "german": ["Tier"], "classes": [0, 1]},
    {"words": ["vehicle"], "german": [], "classes": [2]},
    {"words": ["thing"], "german": [], "classes": [0, 1, 2, 4, 6]},
)


@pytest.fixture
def hypernyms(tmp_path: Path) -> Path:
    path = tmp_path / "hypernyms.json"
    path.write_text(json.dumps({"nouns": NOUNS}), encoding="utf-8")
    return path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ClassCoCa:
    config = captioner("convnet").config
    seed_weights()
    model = ClassCoCa(config.replace(image=config.image.replace(class_branch=True))).eval()
    monkeypatch.setattr(type(model.image_encoder), "class_names", CLASSES)
    return model


@pytest.fixture
def batch() -> Batch:
    words = [(7, 8, 9), (11,), (4, 5), (9, 7), (8,), (5, 11, 4)]
    tokens = torch.tensor([caption(*it, length=8) for it in words])
    sources = ("photos", "drawings", "drawings") * 2
    return Batch(images("convnet", 6), tokens, tuple("abcdef"), 0, sources=sources)


def losses(model: CoCa, batch: Batch, auxiliary: Any, loss: Any) -> Losses:
    config = LossConfig(contrastive_weight=0.0, captioning_weight=0.0, auxiliary=(auxiliary,))
    return CoCaObjective(config, [loss])(model, batch)


def cosines(model: CoCa, batch: Batch, texts: list[str]) -> Tensor:
    """The scaled cosines of all images with texts."""
    embedded = model.encode_text(encode_letters(texts))
    return model.logit_scale * (model.encode_image(batch.images) @ embedded.T)


def published(model: CoCa, batch: Batch) -> Tensor:
    """The probabilities of the classifier."""
    return model.image_encoder.classify(model.image_encoder.features(batch.images)).softmax(dim=1)


def first_prompts(monkeypatch: pytest.MonkeyPatch, plugin: Any) -> tuple[list[str], list[str]]:
    """Let each class and each noun have one prompt."""
    monkeypatch.setattr(plugin, "class_texts", lambda name: class_texts(name)[:1])
    monkeypatch.setattr(plugin, "noun_texts", lambda words, german: [*words])
    return [class_texts(name)[0] for name in CLASSES], [noun["words"][0] for noun in NOUNS]


@pytest.mark.parametrize("sources", [(), ("photos",), ("others",)])
def test_classes_are_compared_within_an_image_and_nouns_over_the_images(
    model: CoCa,
    batch: Batch,
    plugin: Any,
    hypernyms: Path,
    sources: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, nouns = first_prompts(monkeypatch, plugin)
    config = plugin.ClassifierConfig(
        weight=0.5,
        classes=7,
        noun_weight=2,
        branch_weight=0,
        hypernyms=hypernyms,
        sources=sources,
    )
    found = losses(model, batch, config, plugin.Classifier(config, model, PROCESSOR))
    kept = torch.tensor([not sources or it in sources for it in batch.sources])
    target, expected = published(model, batch)[kept], torch.zeros(())
    if kept.any():
        student = cosines(model, batch, names)[kept].softmax(dim=1)
        expected = (target * (target / student).log()).sum(dim=1).mean()
        ranked = cosines(model, batch, nouns)[kept]
        divergence, weights = torch.zeros(()), torch.zeros(())
        for column, noun in enumerate(NOUNS):
            mass = target[:, noun["classes"]].sum(dim=1)
            share, weight = mass / mass.sum(), mass.sum().clamp(max=1)
            divergence += weight * (share * (share / ranked[:, column].softmax(0)).log()).sum()
            weights += weight
        expected = expected + 2 * divergence / weights
    torch.testing.assert_close(found.parts["classifier"], expected.detach())
    torch.testing.assert_close(found.total, 0.5 * expected)


def test_a_classifier_that_changes_is_pulled_back_to_the_one_at_the_start(
    model: CoCa, batch: Batch, plugin: Any, hypernyms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_prompts(monkeypatch, plugin)
    config = plugin.ClassifierConfig(classes=7, noun_weight=0, hypernyms=hypernyms, keep_weight=100)
    loss = plugin.Classifier(config, model, PROCESSOR)
    before = losses(model, batch, config, loss).total
    with torch.no_grad():
        for name, parameter in model.image_encoder.named_parameters():
            if "backbone.layer4" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    after = losses(model, batch, config, loss).total
    assert after > before + 1
    after.backward()
    changed = model.image_encoder.get_parameter("backbone.layer4.0.conv1.weight")
    assert changed.grad is not None


@pytest.mark.slow
def test_copying_learns_the_names_of_classes_that_no_photo_shows(
    model: ClassCoCa, batch: Batch, plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("cat", "fox", "hen", "owl", "pig", "rat", "yak")
    monkeypatch.setattr(type(model.image_encoder), "class_names", names)
    image, text = model.config.image, model.config.text
    model.class_tokens = ClassTokens(7, 2, image_width=image.width, text_width=text.width)
    model.class_tokens.names[:, :3] = encode_letters(names)[:, 1:4]
    config = plugin.CopyingConfig(source="photos")
    loss = plugin.Copying(config, model, PROCESSOR)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    found = []
    for _ in range(150):
        optimizer.zero_grad()
        total = losses(model, batch, config, loss).total
        total.backward()
        optimizer.step()
        found.append(total.item())
    # Seven names with the photos' own class would leave log(7) nats at the first letter.
    assert found[0] > 2
    assert np.mean(found[-10:]) < 0.3
    # No photo of the source, no loss.
    config = plugin.CopyingConfig(source="others")
    assert losses(model, batch, config, plugin.Copying(config, model, PROCESSOR)).total == 0


def test_the_likeliest_classes_are_among_the_drawn(plugin: Any) -> None:
    likeliest, seen = torch.tensor([3, 17, 17, 41]), set()
    for seed in range(30):
        torch.manual_seed(seed)
        classes = plugin.draw_first(likeliest, 50, 10).tolist()
        assert len(classes) == 10
        assert {3, 17, 41} <= set(classes)
        assert classes == sorted(set(classes))
        seen.update(classes)
    assert len(seen) > 40
    assert plugin.draw_first(likeliest, 50, 99).tolist() == list(range(50))
    assert len(plugin.draw_first(likeliest, 50, 2)) == 2


def write_sentences(path: Path, vectors: np.ndarray) -> Path:
    WordVectors(SENTENCES, vectors.astype(np.float32)).save(path)
    return path


def by_hand(texts: np.ndarray, vectors: np.ndarray, temperature: float) -> float:
    """The mean divergence over all ordered pairs of different sentences."""

    def likely(rows: np.ndarray) -> np.ndarray:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        powers = np.exp(rows @ rows.T / temperature)
        np.fill_diagonal(powers, 0)
        return powers / powers.sum(axis=1, keepdims=True)

    target, student = likely(vectors), likely(texts)
    different = ~np.eye(len(texts), dtype=bool)
    pointwise = target[different] * np.log(target[different] / student[different])
    return float(pointwise.sum() / len(texts))


def test_the_loss_of_sentences_is_the_divergence_of_their_relations(
    model: CoCa, batch: Batch, plugin: Any, tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 5))
    path = write_sentences(tmp_path / "s.safetensors", vectors)
    config = plugin.SentencesConfig(path=path, count=7, temperature=0.2)
    with torch.no_grad():
        texts = model.encode_text(encode_letters(SENTENCES)).double().numpy()
        found = losses(model, batch, config, plugin.Sentences(config, model, PROCESSOR)).total
        # A teacher that the model equals teaches nothing; vectors are kept in half precision.
        write_sentences(path, texts)
        equal = losses(model, batch, config, plugin.Sentences(config, model, PROCESSOR)).total
    assert_allclose(found.item(), by_hand(texts, vectors, 0.2), rtol=1e-2)
    assert found > 0.1
    assert equal < 1e-3


LEARNED, SIZE = 12, 6


def mapped_model(plugin: Any, *, tied: bool = False) -> CoCa:
    torch.manual_seed(0)
    config = tiny_config()
    text = config.text.replace(tie_embeddings=tied)
    model = sharpened(CoCa(config.replace(text=text)))
    vectors = nn.functional.normalize(torch.randn(config.text.vocab_size, SIZE), dim=1)
    vectors[:6] = 0
    embedding = model.unimodal_decoder.token_embedding
    plugin.add_word_map_(embedding, vectors, learned=LEARNED)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_model_computes_what_the_map_does(plugin: Any, tied: bool) -> None:
    model = mapped_model(plugin, tied=tied)
    plain = assemble(model.config, merged(model.state_dict()), source="a test")
    tokens = torch.tensor([caption(7, 14, 9, length=8), caption(11, length=8)])
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        one, other = (it.eval()(pixels, tokens) for it in (model, plain))
    torch.testing.assert_close(one.text_embedding, other.text_embedding)
    torch.testing.assert_close(one.decoded.states, other.decoded.states)
    torch.testing.assert_close(model.vocabulary_weight, plain.vocabulary_weight)


def test_words_of_no_caption_train_the_shared_map_only(plugin: Any) -> None:
    embedding = mapped_model(plugin).unimodal_decoder.token_embedding
    embedding(torch.tensor([4, 8, LEARNED, LEARNED + 1])).square().sum().backward()
    parameters = dict(embedding.named_parameters())
    free = parameters["parametrizations.weight.original"].grad
    mapping = parameters["parametrizations.weight.0.down"].grad
    assert free is not None
    assert mapping is not None
    rows = free.abs().sum(dim=1)
    # Row 4 has no vector: its free row is all that it has.
    assert rows[4] > 0
    assert rows[8] > 0
    assert not rows[LEARNED:].any()
    assert mapping.abs().sum() > 0


SYNONYMS = {"crimson": "red", "emerald": "green", "azure": "blue", "golden": "yellow"}
WORDS = ("square", *SYNONYMS.values(), *SYNONYMS)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "pictures")


@pytest.fixture
def changes(tmp_path: Path) -> tuple[str, ...]:
    """Word vectors in which each synonym is close to a colour of the captions."""
    generator = np.random.default_rng(0)
    vectors = {word: generator.normal(size=12) for word in ("square", *SYNONYMS.values())}
    for synonym, word in SYNONYMS.items():
        vectors[synonym] = vectors[word] + 0.1 * generator.normal(size=12)
    rows = np.array([vectors[word] for word in WORDS], dtype=np.float32)
    path, words = tmp_path / "vectors.safetensors", tmp_path / "words.txt"
    WordVectors(WORDS, rows).save(path)
    words.write_text("\n".join(WORDS), encoding="utf-8")
    # The sentences are not trained, and so only the map of their loss is.
    auxiliary = f"{{kind: sentences, weight: 0, path: {path}, count: 3, word_vectors: {path}}}"
    listed = (f"tokenizer.words={words}", f"tokenizer.word_count={len(WORDS)}")
    return (f"loss.auxiliary=[{auxiliary}]", *listed)


def distilled(image_folder: Path, run: Path, hypernyms: Path, *changes: str) -> PretrainConfig:
    config = recipe(
        image_folder,
        run,
        "train.steps=6",
        "train.optimizer.freeze=[image_encoder.backbone]",
        f"loss.auxiliary=[{{kind: classifier, weight: 0.5, classes: 8, hypernyms: {hypernyms}}}]",
        *changes,
    )
    image = TimmConfig(name="test_resnet", image_size=32, width=32, classes=1000)
    return config.replace(model=config.model.replace(image=image))


@pytest.mark.parametrize("loss", ["classifier", "sentences"])
def test_a_resumed_run_equals_the_run_in_one(
    image_folder: Path, tmp_path: Path, changes: tuple[str, ...], hypernyms: Path, loss: str
) -> None:
    def config(name: str) -> PretrainConfig:
        if loss == "classifier":
            return distilled(image_folder, tmp_path / name, hypernyms)
        trained = (changes[0].replace("weight: 0", "weight: 1"), *changes[1:])
        more = ("train.ema.decay=0.9", "model.text.tie_embeddings=true", "train.steps=6")
        return recipe(image_folder, tmp_path / name, *trained, *more)

    whole = pretrain(config("whole"))
    with stopping_at(3):
        pretrain(config("parts"))
    parts = pretrain(config("parts"))
    one, other = (load_file(it.model / "model.safetensors") for it in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_metrics(tmp_path / "whole")[-1][loss] > 0
