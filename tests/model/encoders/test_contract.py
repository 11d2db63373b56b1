"""What every registered kind of image encoder does, and the error if it cannot."""

import json
import socket
from itertools import permutations
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from coca.core.config.frozen_config import from_dict, load_config, to_dict
from coca.core.errors import ConfigError
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.encoder import IMAGE_ENCODERS, ImageEncoderConfig
from coca.model.encoders.timm import TimmConfig, TimmEncoder
from coca.model.pretrained import load_model, save_model
from coca.predict.tower import TowerEncoder
from coca.train.optim.param_groups import freeze, layer_scales
from coca.train.optim.schedule import set_patch_dropout
from coca.workflows.training.feature_cache import hash_encoder
from tiny import ENCODERS, caption, captioner, images, tiny_config

KINDS = tuple(ENCODERS)


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokens() -> Tensor:
    return torch.tensor([caption(7, 8, 9, length=8), caption(10, length=8)])


def test_every_registered_kind_is_under_contract() -> None:
    # Those of other libraries have no weights here: tests/predict/test_tower.py.
    towers = {name for name in IMAGE_ENCODERS.names() if IMAGE_ENCODERS.get(name) is TowerEncoder}
    kinds = {config.kind for config in ENCODERS.values()}
    assert kinds | towers == set(IMAGE_ENCODERS.names())
    assert towers == {"openclip", "hf"}


def test_the_configuration_survives_a_file(name: str) -> None:
    config = captioner(name).config
    assert from_dict(CoCaConfig, json.loads(json.dumps(to_dict(config))), source="x") == config


def test_a_configuration_without_a_kind_is_a_vision_transformer() -> None:
    saved = to_dict(tiny_config())
    del saved["image"]["kind"]
    assert from_dict(CoCaConfig, saved, source="x") == tiny_config()


def test_tokens_are_projected_features_in_the_configured_number_and_width(name: str) -> None:
    encoder = captioner(name).image_encoder
    with torch.no_grad():
        found = encoder(images(name))
        assert torch.equal(found, encoder.project(encoder.finish(encoder.features(images(name)))))
    expected = encoder.config.tokens + encoder.extra_tokens
    assert found.shape == (2, expected, encoder.config.width)


def test_a_saved_model_needs_no_network_and_has_equal_tokens(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = captioner(name)
    save_model(tmp_path, model)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refused)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.image_encoder(images(name)), model.image_encoder(images(name)))


def test_features_replace_images(name: str, tokens: Tensor) -> None:
    model = captioner(name)
    with torch.no_grad():
        features = model.image_encoder.features(images(name))
        one, other = model(images(name), tokens), model(features, tokens)
    assert torch.equal(one.image_embedding, other.image_embedding)
    assert torch.equal(one.decoded.states, other.decoded.states)


def test_a_trained_encoder_gets_gradients(name: str, tokens: Tensor) -> None:
    model = captioner(name).train()
    output = model(images(name), tokens)
    output.image_embedding.sum().backward()
    trained = [it for _, it in model.image_encoder.feature_parameters()]
    assert any(it.grad is not None and bool(it.grad.abs().sum() > 0) for it in trained)


def test_training_leaves_a_frozen_encoder_as_it_is(name: str, tokens: Tensor) -> None:
    model = captioner(name)
    before = {key: it.clone() for key, it in model.image_encoder.state_dict().items()}
    freeze(model, ["image_encoder"])
    model.train()
    one = model(images(name), tokens).image_embedding
    two = model(images(name), tokens).image_embedding
    assert torch.equal(one, two)
    after = model.image_encoder.state_dict()
    assert all(torch.equal(it, after[key]) for key, it in before.items())


def test_batch_norms_learn_statistics_unless_they_are_frozen() -> None:
    model = captioner("convnet")
    freeze(model, ["image_encoder.backbone.layer1"])
    before = {key: it.clone() for key, it in model.image_encoder.state_dict().items()}
    model.train().image_encoder(images("convnet", 4))
    changed = {
        key
        for key, it in model.image_encoder.state_dict().items()
        if not torch.equal(it, before[key])
    }
    assert changed
    assert not any("layer1" in key for key in changed)


def test_layer_decay_rises_towards_the_poolers(name: str) -> None:
    model = captioner(name)
    scales = layer_scales(model, 0.5)
    own = [scales[f"image_encoder.{key}"] for key, _ in model.image_encoder.feature_parameters()]
    assert min(own) < max(own) <= 1
    if name != "vit":
        assert own[0] == min(own)
        assert max(own) == 0.5
        assert not any("projection" in key for key in scales)


@pytest.mark.parametrize("name", ["convnet", "hybrid"], indirect=True)
def test_patch_dropout_of_an_encoder_that_reads_the_whole_image_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"patch_dropout is 0\.5, but .* reads all patches"):
        set_patch_dropout(captioner(name), 0.5)


@pytest.mark.parametrize("name", ["vit", "transformer"], indirect=True)
def test_patch_dropout_of_a_transformer_leaves_fewer_tokens_in_training(name: str) -> None:
    model = captioner(name).train()
    encoder = model.image_encoder
    set_patch_dropout(model, 0.5)
    kept = encoder.config.tokens // 2 + encoder.extra_tokens
    assert encoder(images(name)).shape[1] == kept
    set_patch_dropout(model, 0.0)
    assert encoder(images(name)).shape[1] == encoder.config.tokens + encoder.extra_tokens


@pytest.mark.parametrize("name", ["convnet", "channels_last"], indirect=True)
def test_the_classifier_is_that_of_timm(name: str) -> None:
    encoder = captioner(name).image_encoder
    assert isinstance(encoder, TimmEncoder)
    peer = timm.create_model(encoder.config.name, num_classes=encoder.config.classes).eval()
    peer.load_state_dict(encoder.backbone.state_dict())
    with torch.no_grad():
        expected = peer(images(name))
        torch.testing.assert_close(encoder.classify(encoder.features(images(name))), expected)
    assert encoder.class_names is None


@pytest.mark.parametrize("model", ["hiera_tiny_224", "mixer_s32_224"])
def test_the_classifier_reads_a_series_of_tokens_too(model: str) -> None:
    config = TimmConfig(name=model, image_size=224, width=32, classes=7)
    encoder = TimmEncoder(config)
    peer = timm.create_model(model, num_classes=7).eval()
    peer.load_state_dict(encoder.backbone.state_dict())
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        features = encoder.eval().features(pixels)
        # As in training on cached features: the encoder has seen no image.
        fresh = TimmEncoder(config)
        fresh.load_state_dict(encoder.state_dict())
        for one in (encoder, fresh.train()):
            torch.testing.assert_close(one.classify(features), peer(pixels))
    assert fresh.backbone.training


def test_the_same_weights_in_timm_share_feature_files() -> None:
    own = captioner("lite").image_encoder
    peer = TimmEncoder(TimmConfig(name="tf_efficientnet_lite0", image_size=32, width=32, classes=7))
    peer.load_state_dict(own.state_dict())
    assert hash_encoder(peer) == hash_encoder(own)
    with torch.no_grad():
        features = own.features(images("lite"))
        torch.testing.assert_close(features, peer.eval().features(images("lite")))
    assert hash_encoder(captioner("convnet").image_encoder) != hash_encoder(own)


def test_a_missing_classifier_is_named() -> None:
    encoder = captioner("hybrid").image_encoder
    with torch.no_grad(), pytest.raises(ConfigError, match=r"set model\.image\.classes"):
        encoder.classify(encoder.features(images("hybrid")))


def test_a_classifier_of_imagenet_has_names() -> None:
    config = TimmConfig(name="test_resnet", image_size=64, width=96, classes=1000)
    names = TimmEncoder(config).class_names
    assert names is not None
    assert (len(names), names[817]) == (1000, "sports car, sport car")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"name": "tf_efficientnet_lite", "width": 8}, "not a model of timm; did you mean"),
        ({"name": "test_resnet", "width": 8, "image_size": 40}, "near sizes that fit: 32, 64"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        TimmEncoder(TimmConfig(**settings))  # type: ignore[arg-type]


def test_a_wrong_patch_size_is_corrected_by_the_error() -> None:
    encoder = TimmEncoder(TimmConfig(name="test_resnet", image_size=64, patch_size=16, width=96))
    with pytest.raises(ConfigError, match=r"makes 2 x 2 tokens .* set it to 32"):
        encoder(torch.zeros(1, 3, 64, 64))


def test_a_recipe_chooses_the_kind_and_settings_of_others_are_refused() -> None:
    given = {"kind": "timm", "name": "test_resnet", "image_size": 64, "width": 96}
    layer = {"preset": "coca_tiny", "image": given, "pooler": {"heads": 3}}
    assert load_config(CoCaConfig, layer).image == TimmConfig(
        name="test_resnet", image_size=64, width=96
    )
    wrong = r"image\.heads = 2 is a setting of kind vit; known: class_branch, class_tokens, classes"
    with pytest.raises(ConfigError, match=wrong):
        load_config(CoCaConfig, {**layer, "image": {**given, "heads": 2}})
    with pytest.raises(ConfigError, match=r"image\.kind = 'tim' is unknown; did you mean 'timm'"):
        load_config(CoCaConfig, {"image": {"kind": "tim"}})


def test_a_later_layer_with_another_kind_drops_what_only_the_old_kind_has() -> None:
    recipe = {
        "preset": "coca_tiny",
        "image": {"image_size": 64, "patch_size": 16, "width": 96, "heads": 3},
        "pooler": {"heads": 3},
    }
    kind = ["image.kind=timm", "image.name=test_resnet"]
    # Settings of both kinds stay, as does every override, in any order.
    for changes in permutations([*kind, "image.image_size=128"]):
        assert load_config(CoCaConfig, recipe, overrides=changes).image == TimmConfig(
            name="test_resnet", image_size=128, patch_size=16, width=96
        )
    for changes in permutations([*kind, "image.heads=2"]):
        with pytest.raises(ConfigError, match=r"image\.heads = 2 is a setting of kind vit"):
            load_config(CoCaConfig, recipe, overrides=changes)
    # The same kind again changes nothing.
    same = load_config(CoCaConfig, recipe, overrides=["image.kind=vit"])
    assert same == load_config(CoCaConfig, recipe)


def test_the_normalization_is_that_of_the_weights() -> None:
    found = TimmConfig(name="resnet18", width=512).normalization()
    assert found.mean == (0.485, 0.456, 0.406)
    assert isinstance(ENCODERS["vit"], ImageEncoderConfig)
    assert ENCODERS["vit"].normalization().mean == (0.5, 0.5, 0.5)
