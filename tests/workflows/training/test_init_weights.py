import logging
from typing import Any

import pytest
import torch
from open_clip.coca_model import CoCa as Peer
from open_clip.model import resize_pos_embed

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig, OpenCLIPTextConfig
from coca.model.pretrained import build
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.workflows.training.init_weights import Adopted, adopt_weights
from tiny import tiny_config, tiny_image
from tiny_model import write_model
from tiny_openclip import ours_of, peer, peer_config

THREE = HeadConfig(classes=("a", "b", "c"), heads=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    return load_coca(write_model(tmp_path_factory.mktemp("model")), device="cpu")


def fresh(source: TorchPredictor, **changes: Any) -> CoCa:
    """A new model of the source's shape, but for what is changed."""
    text = tiny_config().text.replace(
        vocab_size=source.model.config.text.vocab_size,
        **changes.pop("text", {}),
    )
    image = tiny_config().image.replace(**changes.pop("image", {}))
    torch.manual_seed(5)
    return build(tiny_config(image=image, text=text, **changes))


def test_the_same_shape_takes_over_every_weight(source: TorchPredictor) -> None:
    model = fresh(source)
    adopted = adopt_weights(model, source)
    own, theirs = model.state_dict(), source.model.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert adopted == Adopted(source.source, source.fingerprint, len(own), (), (), ())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_larger_images_get_interpolated_positions_and_all_else_as_it_was(
    source: TorchPredictor,
) -> None:
    theirs = source.model
    assert isinstance(theirs, CoCa)
    model = fresh(source, image={"image_size": 32}).eval()
    adopted = adopt_weights(model, source)
    assert adopted.resized == ("image_encoder.positions",)
    assert adopted.taken == len(theirs.state_dict()) - 1
    assert model.image_encoder.positions.shape == (64, 32)
    # So it begins as the old model that is shown larger images, to the bit; where gradients
    # are kept, both are computed by the weights as they come.
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.encode_image(images), theirs.encode_image(images))


@pytest.mark.parametrize("image_size", [8, 24, 40])
def test_openclips_positions_are_resized_as_by_open_clip_itself(
    source: TorchPredictor, image_size: int
) -> None:
    theirs = peer()
    old = ours_of(theirs)
    predictor = TorchPredictor(old, source.processor, fingerprint="f", source="old")
    torch.manual_seed(5)
    image = old.config.image.replace(image_size=image_size)
    model = OpenCLIP(old.config.replace(image=image)).eval()
    adopted = adopt_weights(model, predictor)
    assert adopted.resized == ("image_encoder.positions",)
    assert adopted.taken == len(old.state_dict()) - 1
    # The reference: the peer at that size, with the weights that it has resized itself.
    settings = peer_config()
    settings["vision_cfg"]["image_size"] = image_size
    resized, state = Peer(**settings).eval(), theirs.state_dict()
    resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    positions = resized.visual.positional_embedding
    assert torch.equal(positions[0], old.image_encoder.positions[0])
    torch.testing.assert_close(model.image_encoder.positions, positions, rtol=0, atol=1e-6)
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        model.encode_image(images), resized.encode_image(images), rtol=1e-5, atol=1e-5
    )


def test_a_head_that_only_one_has_is_new_or_dropped_and_reported(
    source: TorchPredictor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        adopted = adopt_weights(fresh(source, head=THREE, initial_bias=-10.0), source)
    assert {name.partition(".")[0] for name in adopted.new} == {"head", "logit_bias"}
    assert "has no head, logit_bias" in caplog.text
    headed = TorchPredictor(
        fresh(source, head=THREE), source.processor, fingerprint="f", source="old"
    )
    with caplog.at_level(logging.WARNING):
        adopted = adopt_weights(fresh(source), headed)
    assert {name.partition(".")[0] for name in adopted.left} == {"head"}
    assert "head of old is not used" in caplog.text
    four = THREE.replace(classes=(*THREE.classes, "d"))
    other = adopt_weights(fresh(source, head=four), headed)
    assert other.new == other.left == adopted.left


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"embed_dim": 16}, "model.embed_dim is 24 there and 16 here"),
        ({"text": {"context_length": 8}}, "model.text.context_length is 16 there and 8 here"),
        # These leave every tensor its shape, and would go unseen.
        ({"image": {"heads": 4}}, "model.image.heads is 2 there and 4 here"),
        (
            {"text": {"unimodal_layers": 1, "multimodal_layers": 3}},
            "model.text.multimodal_layers is 2 there and 3 here; model.text.unimodal_layers is 2",
        ),
    ],
)
def test_another_model_is_refused_and_left_as_it_is(
    source: TorchPredictor, changes: dict[str, Any], complaint: str
) -> None:
    model = fresh(source, **changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=f"is another model: {complaint}.*may differ"):
        adopt_weights(model, source)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_another_architecture_is_refused(source: TorchPredictor) -> None:
    text = OpenCLIPTextConfig(
        vocab_size=50, context_length=8, width=32, heads=2, mlp_width=32, bos_id=48, eos_id=49
    )
    config = OpenCLIPConfig(image=tiny_image(), text=text, pooler_heads=2, embed_dim=32)
    foreign = TorchPredictor(
        OpenCLIP(config), source.processor, fingerprint="f", source="somewhere"
    )
    with pytest.raises(ConfigError, match="somewhere has the architecture openclip"):
        adopt_weights(fresh(source), foreign)
