from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from coca.core.errors import ModelError
from coca.model.class_coca import ClassCoCa
from coca.model.coca_config import PoolerConfig
from coca.train.losses import AUXILIARY_LOSSES
from tiny import ENCODERS, captioner, images, seed_weights, tiny_config
from tiny import caption as tokens_of

with pytest.MonkeyPatch.context() as _patch:
    # The stage imports the losses of the first stage, which register themselves.
    _patch.setattr(AUXILIARY_LOSSES, "_entries", dict(AUXILIARY_LOSSES._entries))
    from closing_stage import (
        Choices,
        Images,
        LastLayers,
        TextVectors,
        Things,
        checked,
        closed,
        draw_either,
        fit,
        principal_rotation,
    )

CLASSES, WIDTH, SHOWN = 7, 48, 12


def model_of_equal_widths() -> ClassCoCa:
    """A model with a class branch, whose text tower has the width of the embeddings."""
    seed_weights()
    pooler = PoolerConfig(kind="none", heads=2)
    return ClassCoCa(tiny_config(image=ENCODERS["branch"], pooler=pooler, embed_dim=WIDTH)).eval()


def random_rotation(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


class Listed(TextVectors):
    """Random embeddings of listed texts, in place of a text tower."""

    def __init__(self, texts: list[str]) -> None:
        self._row = {text: row for row, text in enumerate(texts)}
        generator = torch.Generator().manual_seed(5)
        self.vectors = F.normalize(torch.randn(len(texts), WIDTH, generator=generator), dim=1)


@pytest.fixture
def things() -> Things:
    names = [[f"name {number}"] for number in range(CLASSES)]
    below = torch.zeros(CLASSES, 2)
    below[:3, 0] = below[2:, 1] = 1
    prompts = [[f"a {own[0]}"] for own in names]
    return Things(names, prompts, [["noun 0"], ["noun 1"]], below)


@pytest.fixture
def photos() -> Images:
    generator = torch.Generator().manual_seed(7)
    pooled = torch.randn(SHOWN, ENCODERS["branch"].width, generator=generator)
    likely = torch.randn(SHOWN, CLASSES, generator=generator).softmax(dim=1)
    captions = [[f"caption {number}"] for number in range(SHOWN)]
    return Images(pooled, likely, captions, captions)


def texts_of(photos: Images, things: Things) -> Listed:
    groups = (photos.texts, things.names, things.prompts, things.nouns)
    return Listed([text for group in groups for own in group for text in own])


@torch.no_grad()
def test_a_rotation_changes_no_cosine_and_no_caption() -> None:
    model = model_of_equal_widths()
    layers = LastLayers(model)
    plain = closed(model, layers, torch.eye(WIDTH))
    turned = closed(model, layers, random_rotation(WIDTH))
    pixels = images("branch", 3)
    texts = torch.tensor([tokens_of(5, 6, 7, length=9), tokens_of(8, 9, length=9)])
    before, after = (
        torch.cat([it.encode_image(pixels), it.encode_text(texts)]) for it in (plain, turned)
    )
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(before @ before.T, after @ after.T)
    assert torch.equal(plain.image_tokens(pixels), turned.image_tokens(pixels))
    decoded = [
        it.decode(texts, it.image_tokens(pixels[:2])).states for it in (model, plain, turned)
    ]
    assert torch.equal(decoded[0], decoded[1])
    assert torch.equal(decoded[0], decoded[2])


def test_no_other_directions_have_more_of_the_vectors_than_the_first() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = [
        (weight, torch.randn(40, 6, generator=generator) @ torch.randn(6, 6, generator=generator))
        for weight in (1.0, 3.0)
    ]
    rotation = principal_rotation(groups)
    assert_allclose(rotation @ rotation.T, np.eye(6), atol=1e-5)

    def kept(basis: torch.Tensor) -> np.ndarray:
        """The weighted mean square of each dimension."""
        parts = [weight * (rows @ basis.T).square().mean(dim=0) for weight, rows in groups]
        return torch.stack(parts).sum(dim=0).numpy()

    own = kept(rotation)
    assert (np.diff(own) <= 0).all()
    for seed in range(20):
        torch.manual_seed(seed)
        other = kept(torch.linalg.qr(torch.randn(6, 6)).Q)
        assert (other.cumsum() <= own.cumsum() * (1 + 1e-5)).all()


def test_the_fit_lowers_the_loss_and_gives_the_same_layers_for_the_same_seed(
    photos: Images, things: Things
) -> None:
    texts, model = texts_of(photos, things), model_of_equal_widths()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def fitted(seed: int) -> tuple[list[float], LastLayers]:
        layers, labelled = LastLayers(model), replace(photos, texts=(), others=())
        steps = fit(
            layers, photos, photos, labelled, things, texts, scale=20.0, seed=seed, steps=60
        )
        return list(steps), layers

    losses, layers = fitted(0)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert losses == fitted(0)[0]
    assert losses != fitted(1)[0]
    # The towers below are frozen.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    new = closed(model, layers, torch.eye(WIDTH)).state_dict()
    changed = {name for name in before if not torch.equal(before[name], new[name])}
    assert changed == {"class_branch.vectors", "class_branch.scale", "image_projection.weight"}
    assert new.keys() - before.keys() == {"text_projection.weight"}


@torch.no_grad()
def test_the_closed_model_computes_what_was_fitted(photos: Images, things: Things) -> None:
    texts, model = texts_of(photos, things), model_of_equal_widths()
    layers = LastLayers(model)
    with torch.enable_grad():
        list(fit(layers, photos, photos, photos, things, texts, scale=20.0, steps=3))
    new, pixels = closed(model, layers, random_rotation(WIDTH)), images("branch", 3)
    encoded = model.encode(pixels)
    assert model.contrastive_pooler is not None
    assert encoded.probabilities is not None
    pooled = model.contrastive_pooler(encoded.tokens)[:, 0]
    wanted, found = layers.images(pooled, encoded.probabilities), new.encode_image(pixels)
    torch.testing.assert_close(found @ found.T, wanted @ wanted.T)
    rows = torch.tensor([tokens_of(5, 6, length=8), tokens_of(7, 8, length=8)])
    torch.testing.assert_close(new.encode_text(rows) @ found.T, model.encode_text(rows) @ wanted.T)


def test_texts_are_drawn_from_those_of_their_owner() -> None:
    some, other = Choices([[0, 1], [2], [3, 4]]), Choices([[5], [6, 7], [8]])
    generator = torch.Generator().manual_seed(0)
    owners = torch.tensor([0, 1, 2]).repeat(200)
    drawn = draw_either(some, other, owners, generator, fraction=0.25)
    assert set(drawn[owners == 0].tolist()) == {0, 1, 5}
    assert set(drawn[owners == 1].tolist()) == {2, 6, 7}
    assert set(drawn[owners == 2].tolist()) == {3, 4, 8}
    assert 0.15 < (drawn > 4).float().mean() < 0.35


def test_a_model_without_a_branch_or_closed_before_is_refused() -> None:
    with pytest.raises(ModelError, match=r"needs a CoCa model with model\.image\.class_branch"):
        checked(captioner("vit"))
    with pytest.raises(ModelError, match=r"set model\.pooler\.kind to none or parallel"):
        checked(captioner("branch"))
    model = model_of_equal_widths()
    again = closed(model, LastLayers(model), torch.eye(WIDTH))
    with pytest.raises(ModelError, match="adds a text projection, but this model has one"):
        checked(again)
