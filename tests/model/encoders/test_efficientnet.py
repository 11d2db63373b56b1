"""EfficientNet-Lite compared with timm's implementation."""

from typing import Any

import pytest
import timm
import torch

from coca.model.encoders.efficientnet import (
    FACTORS,
    EfficientNetLite,
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
