"""EfficientNet-Lite compared with timm's implementation."""

from typing import Any

import pytest
import timm
import torch

from coca.core.errors import ConfigError
from coca.model.encoders.efficientnet import (
    FACTORS,
    STAGES,
    EfficientNetLite,
    EfficientNetLiteConfig,
    EfficientNetLiteEncoder,
)


@pytest.mark.parametrize("variant", FACTORS)
@torch.no_grad()
def test_names_shapes_features_and_logits_are_those_of_timm(variant: str) -> None:
    torch.manual_seed(0)
    peer: Any = timm.create_model(f"tf_efficientnet_{variant}", num_classes=9).eval()
    for name, buffer in peer.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    own = EfficientNetLite(variant, 9).eval()
    assert list(own.state_dict()) == list(peer.state_dict())
    own.load_state_dict(peer.state_dict())
    for side in (64, 96):
        images = torch.randn(2, 3, side, side)
        torch.testing.assert_close(own.forward_features(images), peer.forward_features(images))
        torch.testing.assert_close(own.forward_head(own.forward_features(images)), peer(images))


def test_batch_norms_learn_statistics_as_in_timm() -> None:
    torch.manual_seed(0)
    peer: Any = timm.create_model("tf_efficientnet_lite0", num_classes=0).train()
    own = EfficientNetLite("lite0", 0).train()
    own.load_state_dict(peer.state_dict())
    images = torch.randn(4, 3, 64, 64)
    own.forward_features(images)
    peer.forward_features(images)
    for name, tensor in peer.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("stages", [1, 5, 7])
def test_a_split_encoder_computes_the_same_tokens(stages: int) -> None:
    torch.manual_seed(0)
    config = EfficientNetLiteConfig(image_size=64, width=24, classes=5)
    encoder, split = (EfficientNetLiteEncoder(config).eval() for _ in range(2))
    split.load_state_dict(encoder.state_dict())
    split.split_after(stages)
    images = torch.randn(2, 3, 64, 64)
    features = split.features(images)
    assert features.shape[2] == STAGES[stages - 1].channels
    torch.testing.assert_close(split.project(split.finish(features)), encoder(images))
    features.sum().backward()
    reached = {name for name, it in split.named_parameters() if it.grad is not None}
    assert reached == {name for name, _ in split.feature_parameters()}
    with pytest.raises(ConfigError, match="must be in 1 to 7, got 8"):
        encoder.split_after(8)
