"""Laws of the class branch: what the encoder's own classifier adds to an image embedding."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.encoders.efficientnet import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    EfficientNetLiteEncoder,
)
from tiny import captioner, images


@pytest.fixture
def model() -> CoCa:
    return captioner("branch")


def without_branch(model: CoCa) -> CoCa:
    """The model with the same weights and no branch."""
    assert isinstance(model.config.image, EfficientNetLiteConfig)
    image = dataclasses.replace(model.config.image, class_branch=False)
    plain = CoCa(dataclasses.replace(model.config, image=image)).eval()
    missing, extra = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert set(extra) == {"class_branch.vectors", "class_branch.scale"}
    return plain


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def probabilities(model: CoCa, pixels: Tensor) -> np.ndarray:
    """By the network as it is without this project's encoder around it."""
    assert isinstance(model.image_encoder, EfficientNetLiteEncoder)
    network = model.image_encoder.backbone
    assert isinstance(network, EfficientNetLite)
    with torch.no_grad():
        logits = network.forward_head(network.forward_features(pixels)).double().numpy()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def by_hand(model: CoCa, plain: np.ndarray, likely: np.ndarray) -> np.ndarray:
    assert model.class_branch is not None
    known = unit(likely**0.75 @ model.class_branch.vectors.detach().numpy())
    return unit(plain + model.class_branch.scale.item() * known)


def test_the_embedding_is_the_sum_of_both_parts(model: CoCa) -> None:
    pixels = images("branch", 4)
    with torch.no_grad():
        found = model.encode_image(pixels).numpy()
        plain = without_branch(model).encode_image(pixels).numpy()
    assert_allclose(found, by_hand(model, plain, probabilities(model, pixels)), atol=1e-5)
    assert not np.allclose(found, plain, atol=1e-2)


def test_a_series_has_the_mean_probabilities_of_its_images(model: CoCa) -> None:
    series = images("branch", 6).reshape(2, 3, *images("branch").shape[1:])
    with torch.no_grad():
        found = model.encode_image(series).numpy()
        plain = without_branch(model).encode_image(series).numpy()
    likely = probabilities(model, series.flatten(0, 1)).reshape(2, 3, -1).mean(axis=1)
    assert_allclose(found, by_hand(model, plain, likely), atol=1e-5)


def test_the_decoder_reads_the_same_with_and_without_a_branch(model: CoCa) -> None:
    pixels = images("branch")
    with torch.no_grad():
        assert torch.equal(model.image_tokens(pixels), without_branch(model).image_tokens(pixels))


def test_vectors_start_at_texts_less_their_mean(model: CoCa) -> None:
    assert model.class_branch is not None
    texts = torch.randn(7, model.config.embed_dim)
    model.class_branch.start_at(texts)
    torch.testing.assert_close(model.class_branch.vectors.detach(), texts - texts.mean(dim=0))


def test_a_branch_needs_a_classifier() -> None:
    with pytest.raises(ConfigError, match=r"image.class_branch is true, but image.classes is 0"):
        EfficientNetLiteConfig(width=32, class_branch=True)
