"""Laws of class branch and class tokens: what the encoder's own classifier adds for both losses."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa
from coca.model.encoders.efficientnet import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    EfficientNetLiteEncoder,
)
from tiny import captioner, images


@pytest.fixture
def model() -> ClassCoCa:
    model = captioner("branch")
    assert isinstance(model, ClassCoCa)
    return model


def without_branch(model: CoCa) -> CoCa:
    """The model with the same weights, and neither branch nor class tokens."""
    assert isinstance(model.config.image, EfficientNetLiteConfig)
    image = model.config.image.replace(class_branch=False, class_tokens=0)
    plain = CoCa(model.config.replace(image=image)).eval()
    missing, extra = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert {name.partition(".")[0] for name in extra} == {"class_branch", "class_tokens"}
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


@torch.no_grad()
def test_the_embedding_of_a_series_is_the_sum_of_both_parts(model: ClassCoCa) -> None:
    series = images("branch", 6).reshape(2, 3, *images("branch").shape[1:])
    found, plain = (it.encode_image(series).numpy() for it in (model, without_branch(model)))
    likely = probabilities(model, series.flatten(0, 1)).reshape(2, 3, -1).mean(axis=1)
    assert model.class_branch is not None
    known = unit(likely**0.75 @ model.class_branch.vectors.numpy())
    wanted = unit(plain + model.class_branch.scale.item() * known)
    assert_allclose(found, wanted, atol=1e-5)
    assert not np.allclose(found, plain, atol=1e-2)


@torch.no_grad()
def test_the_decoder_reads_names_of_the_likeliest_classes_of_a_series(model: ClassCoCa) -> None:
    series = images("branch", 6).reshape(2, 3, *images("branch").shape[1:])
    module, plain = model.class_tokens, without_branch(model).image_tokens(series)
    assert module is not None
    found = model.image_tokens(series)
    assert torch.equal(found[:, :-3], plain)
    likely = probabilities(model, series.flatten(0, 1)).reshape(2, 3, -1).mean(axis=1)
    words = model.unimodal_decoder.token_embedding.weight
    for row, own in zip(found, likely, strict=True):
        for token, label in zip(row[-3:], np.argsort(-own), strict=False):
            ids = [number for number in module.names[label].tolist() if number >= 0]
            name = module.map.weight @ words[ids].mean(dim=0)
            unit_variance = (name - name.mean()) / name.std(correction=0)
            wanted = own[label] ** 0.5 * unit_variance
            torch.testing.assert_close(token, wanted.float(), atol=1e-4, rtol=1e-3)
    module.fold_(model.unimodal_decoder.token_embedding)
    torch.testing.assert_close(model.image_tokens(series), found)


@torch.no_grad()
def test_a_class_without_probability_is_no_token_and_the_order_of_classes_has_no_effect(
    model: ClassCoCa,
) -> None:
    pixels, module = images("branch"), model.class_tokens
    before, order = model.image_tokens(pixels), torch.tensor([3, 6, 0, 1, 5, 4, 2])
    assert module is not None
    assert isinstance(model.image_encoder, EfficientNetLiteEncoder)
    classifier: nn.Linear = model.image_encoder.backbone.get_classifier()
    for tensor in (classifier.weight, classifier.bias, module.names):
        tensor.copy_(tensor[order])
    torch.testing.assert_close(model.image_tokens(pixels), before)
    classifier.bias[4] = 1000
    found = model.image_tokens(pixels)
    assert found[:, -3].any()
    assert not found[:, -2:].any()


def test_training_drops_all_class_tokens_of_some_images(model: ClassCoCa) -> None:
    module = model.class_tokens
    assert module is not None
    likely, words = torch.rand(400, 7), model.unimodal_decoder.token_embedding
    whole, some = (module.train(mode)(likely, words) for mode in (False, True))
    is_kept = some.flatten(1).any(dim=1)
    assert torch.equal(some[is_kept], whole[is_kept])
    assert 0.72 < is_kept.float().mean() < 0.88


def test_vectors_start_at_texts_less_their_mean(model: ClassCoCa) -> None:
    assert model.class_branch is not None
    texts = torch.randn(7, model.config.embed_dim)
    model.class_branch.start_at(texts)
    torch.testing.assert_close(model.class_branch.vectors.detach(), texts - texts.mean(dim=0))


def test_a_branch_needs_a_classifier() -> None:
    with pytest.raises(ConfigError, match=r"image.class_branch is true, but image.classes is 0"):
        EfficientNetLiteConfig(width=32, class_branch=True)
    with pytest.raises(ConfigError, match=r"class_tokens must be at most image.classes 3, got 4"):
        EfficientNetLiteConfig(width=32, classes=3, class_tokens=4)
