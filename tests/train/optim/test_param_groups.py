from typing import Any

import pytest
import torch
from torch import nn

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig, OpenCLIPTextConfig
from coca.train.optim.param_groups import GroupConfig, freeze, layer_scales, parameter_groups
from tiny import caption, tiny_config, tiny_image


def settings_of(model: nn.Module, **options: Any) -> dict[str, tuple[float, float]]:
    """Rate and decay of each trainable parameter; each must be in exactly one group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, options.pop("weight_decay", 0.1), **options)
    listed = [parameter for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) == sum(p.requires_grad for p in model.parameters())
    return {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


def test_only_matrices_that_map_decay() -> None:
    settings = settings_of(CoCa(tiny_config()))
    decayed = {name for name, (_, decay) in settings.items() if decay}
    assert not any(name.endswith((".bias", "norm.weight")) for name in decayed)
    assert not decayed & {
        "log_scale",
        "image_encoder.positions",
        "unimodal_decoder.positions",
        "captioning_pooler.queries",
        "contrastive_pooler.queries",
    }
    assert "unimodal_decoder.token_embedding.weight" in decayed
    assert {pace for pace, _ in settings.values()} == {1.0}


def test_learned_inputs_of_timm_do_not_decay() -> None:
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, embed_dim=12)
    settings = settings_of(nn.ModuleDict({"backbone": vit}))
    decays = {name: decay for name, (_, decay) in settings.items()}
    for name in vit.no_weight_decay():
        assert decays.get(f"backbone.{name}", 0) == 0, name
    assert decays["backbone.cls_token"] == decays["backbone.pos_embed"] == 0
    assert decays["backbone.patch_embed.proj.weight"] > 0


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(parameter_groups(nn.Linear(3, 2, bias=False), 0.1)) == 1


def test_a_locked_image_tower_gives_the_poolers_no_graph_to_go_back_through() -> None:
    model = CoCa(tiny_config()).train()
    freeze(model, ["image_encoder"])
    images = torch.randn(2, 3, 16, 16)
    assert not model.image_encoder(images).requires_grad
    output = model(images, torch.tensor([caption(5, 6, length=8), caption(7, length=8)]))
    assert output.image_embedding is not None
    output.image_embedding.sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in with_gradient} == {
        "captioning_pooler",
        "contrastive_pooler",
        "image_projection",
    }
    assert not any(name.startswith("image_encoder") for name in settings_of(model))


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("0", {"0.weight", "0.bias", "0.inner.weight"}),
        ("*.bias", {"0.bias", "1.bias"}),
        ("*.inner", {"0.inner.weight"}),
        ("0.*weight", {"0.weight", "0.inner.weight"}),
        ("1.weight", {"1.weight"}),
    ],
)
def test_a_name_covers_all_submodules_and_a_star_any_characters(
    pattern: str, frozen: set[str]
) -> None:
    first = nn.Linear(3, 2)
    first.inner = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(first, nn.Linear(2, 1))
    freeze(model, [pattern])
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen


def test_a_group_has_its_own_rate_and_decay() -> None:
    settings = settings_of(
        CoCa(tiny_config()),
        groups=(
            GroupConfig(match="image_encoder", lr_scale=0.1, weight_decay=0.0),
            GroupConfig(match="*_pooler", lr_scale=5.0),
            GroupConfig(match="contrastive_pooler.attention.out", weight_decay=0.3),
        ),
    )
    assert settings["image_encoder.blocks.1.mlp.up.weight"] == (0.1, 0.0)
    assert settings["captioning_pooler.attention.out.weight"] == (5.0, 0.1)
    # The last group that matches counts, and it sets no rate.
    assert settings["contrastive_pooler.attention.out.weight"] == (1.0, 0.3)
    assert settings["contrastive_pooler.queries"] == (5.0, 0.0)
    assert settings["contrastive_pooler.attention.out.bias"] == (1.0, 0.0)
    assert settings["vocabulary.weight"] == (1.0, 0.1)


def test_the_fastest_group_comes_first() -> None:
    groups = parameter_groups(
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)),
        0.1,
        groups=(GroupConfig(match="1", lr_scale=3.0),),
    )
    order = [(group["lr_scale"], group["weight_decay"]) for group in groups]
    assert order == [(3.0, 0.1), (3.0, 0.0), (1.0, 0.1), (1.0, 0.0)]


def test_layer_decay_counts_from_the_top_of_each_tower() -> None:
    # By hand: the image tower has 2 blocks, so its top is layer 3; the text decoder has 2 + 2, so
    # its top is layer 5. The factor is 0.5 to the number of layers above.
    scales = layer_scales(CoCa(tiny_config()), 0.5)
    expected = {
        "image_encoder.positions": 1 / 8,
        "image_encoder.patch_embedding.weight": 1 / 8,
        "image_encoder.blocks.0.mlp.up.bias": 1 / 4,
        "image_encoder.blocks.1.attention.qkv.weight": 1 / 2,
        "image_encoder.norm.weight": 1.0,
        "unimodal_decoder.positions": 1 / 32,
        "unimodal_decoder.token_embedding.weight": 1 / 32,
        "unimodal_decoder.blocks.0.mlp.up.weight": 1 / 16,
        "unimodal_decoder.blocks.1.mlp.up.weight": 1 / 8,
        "unimodal_decoder.norm.weight": 1.0,
        "multimodal_decoder.blocks.0.cross_norm.weight": 1 / 4,
        "multimodal_decoder.blocks.1.mlp.up.weight": 1 / 2,
        "multimodal_decoder.norm.bias": 1.0,
    }
    assert {name: scales[name] for name in expected} == expected
    settings = settings_of(
        CoCa(tiny_config()),
        layer_decay=0.5,
        groups=(GroupConfig(match="image_encoder", lr_scale=0.1),),
    )
    assert settings["image_encoder.positions"] == (0.1 / 8, 0.0)
    assert settings["captioning_pooler.queries"] == (1.0, 0.0)
    assert settings["vocabulary.weight"] == (1.0, 0.1)
    assert settings["log_scale"] == (1.0, 0.0)


def test_layer_decay_finds_the_towers_of_the_openclip_variant() -> None:
    image = tiny_image()
    text = OpenCLIPTextConfig(
        vocab_size=50, context_length=8, width=32, heads=2, mlp_width=32, bos_id=48, eos_id=49,
        unimodal_layers=2, multimodal_layers=1,
    )  # fmt: skip
    config = OpenCLIPConfig(image=image, text=text, pooler_queries=3, pooler_heads=2, embed_dim=32)
    scales = layer_scales(OpenCLIP(config), 0.5)
    # Its image encoder has a norm before the blocks and none after them.
    assert scales["image_encoder.norm.weight"] == scales["image_encoder.class_token"] == 1 / 8
    assert scales["unimodal_decoder.class_token"] == 1 / 16
    assert scales["unimodal_decoder.blocks.1.mlp.up.weight"] == 1 / 4
    assert {s for n, s in scales.items() if n.startswith("multimodal_decoder.layers.")} == {1 / 2}
    assert scales["multimodal_decoder.norm.weight"] == 1.0


def test_a_model_without_towers_has_no_layer_decay() -> None:
    with pytest.raises(ConfigError, match="Linear has none"):
        parameter_groups(nn.Linear(3, 2), 0.1, layer_decay=0.9)


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("image_encodr", "did you mean 'image_encoder'"),
        ("image_encoder.block.0", r"did you mean 'image_encoder\.blocks\.0'"),
        ("image_encoder.blocks.2", r"did you mean 'image_encoder\.blocks\.\d"),
        ("tower", "known: captioning_pooler, contrastive_pooler, image_encoder,"),
    ],
)
def test_a_pattern_that_matches_nothing_raises_with_the_nearest_name(
    pattern: str, near: str
) -> None:
    model = CoCa(tiny_config())
    with pytest.raises(ConfigError, match=f"no parameter is called '{pattern}'; {near}"):
        freeze(model, [pattern])
    with pytest.raises(ConfigError, match=near):
        parameter_groups(model, 0.1, groups=(GroupConfig(match=pattern),))


def test_a_group_without_own_parameters_raises() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    first, both = GroupConfig(match="0", lr_scale=2.0), GroupConfig(match="*")
    with pytest.raises(ConfigError, match="'0' has no parameter"):
        parameter_groups(model, 0.1, groups=(first, both))
    assert len(parameter_groups(model, 0.1, groups=(both, first))) == 4
    freeze(model, ["0"])
    with pytest.raises(ConfigError, match="each is frozen"):
        parameter_groups(model, 0.1, groups=(first,))


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match="none is left to train"):
        freeze(nn.Linear(3, 2), ["weight", "bias"])


def test_all_but_some_may_be_named() -> None:
    model = CoCa(tiny_config())
    freeze(model, ["!image_encoder"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        f"image_encoder.{name}" for name, _ in model.image_encoder.named_parameters()
    }
    with pytest.raises(ConfigError, match="no parameter is called 'imag'"):
        freeze(model, ["!imag"])
