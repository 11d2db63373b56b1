from typing import Any

import open_clip
import pytest

from coca.core.config.frozen_config import from_dict, to_dict
from coca.core.errors import ConfigError, ModelError
from coca.model.openclip.openclip_config import (
    OpenCLIPConfig,
    OpenCLIPTextConfig,
    from_open_clip,
)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("vision_cfg", "attentional_pool", "cascade", "attentional_pool is 'cascade', only True"),
        ("vision_cfg", "ls_init_value", 0.1, "vision_cfg.ls_init_value is unknown"),
        ("vision_cfg", "timm_model_name", "vit", "vision_cfg.timm_model_name is unknown"),
        ("text_cfg", "hf_model_name", "roberta-base", "text_cfg.hf_model_name is unknown"),
        ("text_cfg", "embed_cls", None, "embed_cls is None, only True exists"),
        ("text_cfg", "heads", 4, "heads is 4 in text_cfg and 8 in multimodal_cfg"),
        ("text_cfg", "width", 100, "width is 100 in text_cfg and 512"),
        ("vision_cfg", "attn_pooler_heads", 7, "pooler_heads 7 do not divide embed_dim 512"),
    ],
)
def test_what_this_model_has_not_is_named(
    section: str, name: str, value: Any, message: str
) -> None:
    content = open_clip.get_model_config("coca_ViT-B-32")
    content[section][name] = value
    with pytest.raises(ModelError, match=message):
        from_open_clip(content)


def test_models_that_are_no_such_coca_are_refused() -> None:
    with pytest.raises(ModelError, match="this is not OpenCLIP's CoCa"):
        from_open_clip(open_clip.get_model_config("ViT-B-32"))
    # Without a pooler, the decoder would attend to raw patches.
    with pytest.raises(ModelError, match=r"attentional_pool is None, only True exists"):
        from_open_clip(open_clip.get_model_config("coca_base"))
    quick = open_clip.get_model_config("coca_ViT-B-32") | {"quick_gelu": True}
    with pytest.raises(ModelError, match="quick_gelu is on"):
        from_open_clip(quick)


def test_dead_settings_of_the_published_files_change_nothing() -> None:
    # L/14 has 12 pooler heads in a setting that OpenCLIP never reads.
    config = from_open_clip(open_clip.get_model_config("coca_ViT-L-14"))
    assert config.pooler_heads == 8


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (OpenCLIPConfig, {"pooler_heads": 7}, "pooler_heads 7 do not divide embed_dim 512"),
        (OpenCLIPConfig, {"embed_dim": 256}, "text.width 512 must equal embed_dim 256"),
        (OpenCLIPTextConfig, {"heads": 7}, "heads 7 do not divide width 512"),
        (OpenCLIPTextConfig, {"eos_id": 0}, "three different ids"),
    ],
)
def test_contradictions_raise(kind: type, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**changes)


def test_a_configuration_is_kept_as_plain_values() -> None:
    config = OpenCLIPConfig.presets()["openclip_vit_l_14"]
    assert from_dict(OpenCLIPConfig, to_dict(config), source="a test") == config
    assert config.text.max_text_tokens == 74
    assert config.text.suppress_tokens == (0, 49_406)
