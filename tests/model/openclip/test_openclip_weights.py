import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa as Peer

from coca.core.errors import ModelError
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig, from_open_clip
from coca.model.openclip.openclip_weights import (
    config_of_weights,
    convert_state_dict,
    restore_state_dict,
)
from tiny_openclip import peer, tiny_openclip_config


@pytest.mark.parametrize("image_width", [48, 32])
def test_a_round_trip_changes_no_bit(image_width: int) -> None:
    state = peer(image_width=image_width).state_dict()
    config = tiny_openclip_config(image_width=image_width)
    back = restore_state_dict(convert_state_dict(state, config), config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("name", "preset", "tensors", "parameters"),
    [
        ("coca_ViT-B-32", "openclip_vit_b_32", 629, 253_560_065),
        ("coca_ViT-L-14", "openclip_vit_l_14", 773, 638_450_177),
    ],
)
def test_published_sizes_have_every_key_and_shape(
    name: str, preset: str, tensors: int, parameters: int
) -> None:
    content = open_clip.get_model_config(name)
    config = OpenCLIPConfig.presets()[preset]
    assert from_open_clip(content) == config
    content.pop("custom_text")
    with torch.device("meta"):
        theirs, ours = Peer(**content).state_dict(), OpenCLIP(config)
    assert len(theirs) == tensors
    assert sum(weight.numel() for weight in ours.parameters()) == parameters
    converted = convert_state_dict(theirs, config)
    assert {name: weight.shape for name, weight in converted.items()} == {
        name: weight.shape for name, weight in ours.state_dict().items()
    }
    restored = restore_state_dict(ours.state_dict(), config)
    assert {name: weight.shape for name, weight in restored.items()} == {
        name: weight.shape for name, weight in theirs.items()
    }
    assert config_of_weights(theirs) == config


def test_old_masks_and_a_scale_of_one_row_are_read() -> None:
    state = peer().state_dict()
    old = state | {"logit_scale": state["logit_scale"][None], "text.attn_mask": torch.zeros(3, 3)}
    config = tiny_openclip_config()
    plain = convert_state_dict(state, config)
    other = convert_state_dict(old, config)
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_missing_and_an_unknown_tensor_are_named() -> None:
    state, config = peer().state_dict(), tiny_openclip_config()
    state["text.extra"] = state.pop("text.cls_emb")
    with pytest.raises(ModelError, match=r"1 tensors missing .*cls_emb.* unknown .*text\.extra"):
        convert_state_dict(state, config)


@pytest.mark.parametrize("state", [{"text.cls_emb": torch.zeros(3)}, peer().state_dict()])
def test_weights_of_another_size_need_their_configuration(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ModelError, match=r"published size; .* put its open_clip_config\.json next"):
        config_of_weights(state)
