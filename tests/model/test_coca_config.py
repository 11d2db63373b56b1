import pytest

from coca.core.errors import ConfigError
from coca.model.coca_config import CoCaConfig, PoolerConfig, TextDecoderConfig
from coca.model.encoders.vit import ViTConfig
from coca.model.pretrained import count_parameters

TABLE_1 = {"coca_base": 382.8, "coca_large": 787.4, "coca_2b": 2101.8}
SMALL = {"coca_small": 58.8, "coca_mini": 18.0, "coca_tiny": 7.4}


@pytest.mark.parametrize(("preset", "millions"), [*TABLE_1.items(), *SMALL.items()])
def test_the_documented_sizes_come_out_to_a_tenth_of_a_million(
    preset: str, millions: float
) -> None:
    counts = count_parameters(CoCaConfig.presets()[preset])
    assert round(counts["total_without_poolers"] / 1e6, 1) == millions


def test_the_parts_of_base_are_those_of_table_1() -> None:
    counts = count_parameters(CoCaConfig.presets()["coca_base"])
    text = counts["unimodal_decoder"] + counts["multimodal_decoder"] + counts["vocabulary"]
    assert round(counts["image_encoder"] / 1e6) == 86
    assert round(text / 1e6) == 297
    assert counts["total"] == sum(
        count for part, count in counts.items() if not part.startswith("total")
    )


@pytest.mark.parametrize("preset", sorted(CoCaConfig.presets()))
def test_every_preset_has_heads_of_equal_width_in_both_towers(preset: str) -> None:
    config = CoCaConfig.presets()[preset]
    assert isinstance(config.image, ViTConfig)
    assert config.image.width // config.image.heads == config.text.width // config.text.heads
    assert config.embed_dim == config.image.width


def test_base_sees_256_tokens_and_high_resolution_1024() -> None:
    assert ViTConfig().tokens == 256
    assert ViTConfig(image_size=576).tokens == 1024


def test_a_patch_that_does_not_fit_names_near_sizes() -> None:
    with pytest.raises(ConfigError, match="near sizes that fit: 216, 234"):
        ViTConfig(image_size=224, patch_size=18)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ViTConfig(heads=5), "choose a divisor of 768"),
        (lambda: TextDecoderConfig(cls_id=2), "four different ids"),
        (lambda: TextDecoderConfig(vocab_size=3), "below vocab_size"),
        (lambda: CoCaConfig(pooler=PoolerConfig(heads=7)), "divisor of 768"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_a_reason(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]
