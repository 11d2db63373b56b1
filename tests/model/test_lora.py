import pytest
import torch
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.lora import LoraConfig, add_lora_, merged
from coca.model.openclip.openclip import OpenCLIP
from coca.model.pretrained import ModelConfig, assemble, build
from tiny import caption, sharpened, tiny_config
from tiny_openclip import caption_rows, tiny_openclip_config

HEAD = HeadConfig(classes=("yes", "no"), heads=2)


def models() -> list[CoCa]:
    torch.manual_seed(0)
    return [sharpened(build(tiny_config(head=HEAD))), sharpened(OpenCLIP(tiny_openclip_config()))]


def tokens_of(model: CoCa) -> Tensor:
    if isinstance(model, OpenCLIP):
        return caption_rows(5, 7)
    return torch.tensor([caption(7, 8, 9, length=8), caption(11, length=8)])


def outputs(model: CoCa) -> list[Tensor]:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.eval()(images, tokens_of(model))
    return [found.image_embedding, found.text_embedding, found.decoded.states]


def drawn_adapters_(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.1)


def test_what_adapters_leave_frozen_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    add_lora_(models()[0], LoraConfig(rank=2, modules_to_save=("*_pooler", "*token_embedding")))
    assert "leaves log_scale, vocabulary, image_projection, text_projection frozen" in caplog.text


@pytest.mark.parametrize("which", [0, 1], ids=["coca", "openclip"])
def test_new_adapters_change_nothing(which: int) -> None:
    model = models()[which]
    before = outputs(model)
    add_lora_(model, LoraConfig(rank=2))
    for one, other in zip(before, outputs(model), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("which", [0, 1], ids=["coca", "openclip"])
def test_merged_weights_compute_what_adapters_do(which: int) -> None:
    model, config = models()[which], LoraConfig(rank=2, alpha=6.0)
    before = outputs(model)
    add_lora_(model, config)
    drawn_adapters_(model)
    adapted = outputs(model)
    assert isinstance(model.config, ModelConfig)
    plain = assemble(model.config, merged(model.state_dict()), source="a test")
    for first, one, other in zip(before, adapted, outputs(plain), strict=True):
        torch.testing.assert_close(one, other)
        assert not torch.allclose(first, one, atol=1e-3)


@pytest.mark.parametrize("layer", ["qkv", "out", "up", "down", "key_value", "query"])
def test_the_adapter_of_every_kind_of_layer_takes_effect(layer: str) -> None:
    """Attention reads some weights without a call of their layer."""
    model = models()[0]
    before = outputs(model)
    add_lora_(model, LoraConfig(match=(f"multimodal_decoder.*.{layer}",)))
    drawn_adapters_(model)
    assert not torch.allclose(before[2], outputs(model)[2], atol=1e-4)


@pytest.mark.parametrize("which", [0, 1], ids=["coca", "openclip"])
def test_the_embeddings_of_tokens_are_trained_in_full(which: int) -> None:
    model = models()[which]
    add_lora_(model, LoraConfig())
    whole = {name for name, it in model.named_parameters() if it.requires_grad}
    tables = {name for name in whole if "token_embedding" in name or "vocabulary" in name}
    assert tables
    assert not any("parametrizations" in name for name in tables)


def test_only_adapters_and_the_head_learn() -> None:
    model = models()[0]
    add_lora_(model, LoraConfig(match=("image_encoder.*.qkv",), modules_to_save=()))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in learning if name.endswith((".0.up", ".0.down"))}
    assert len(adapters) == 2 * len(model.image_encoder.blocks)  # type: ignore[arg-type]
    assert {name.partition(".")[0] for name in learning - adapters} == {"head"}


def test_one_layer_is_the_formula_of_the_paper() -> None:
    layer, inputs = nn.Linear(5, 3), torch.randn(4, 5)
    expected = layer(inputs)
    holder = nn.ModuleDict({"layer": layer})
    add_lora_(holder, LoraConfig(rank=2, alpha=3.0, match=("layer",)))
    drawn_adapters_(holder)
    parts = dict(holder.named_parameters())
    up, down = (parts[f"layer.parametrizations.weight.0.{name}"] for name in ("up", "down"))
    torch.testing.assert_close(layer(inputs), expected + 1.5 * inputs @ down.T @ up.T)


def test_names_that_fit_nothing_and_sizes_that_cannot_be_raise() -> None:
    with pytest.raises(ConfigError, match="'image_encodr' matches no linear layer"):
        add_lora_(build(tiny_config()), LoraConfig(match=("image_encodr",)))
