"""Laws of the downstream head, for both architectures."""

from typing import Any

import pytest
import torch
from torch import Tensor

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, HeadConfig
from coca.model.heads import head_for, head_logits, head_of, head_tokens, logits_of
from coca.model.openclip.openclip_config import OpenCLIPConfig
from coca.model.pretrained import build
from tiny import caption, sharpened, tiny_config
from tiny_openclip import BOS, EOS, tiny_openclip_config

CLASSES = ("yes", "no", "maybe")


def make(architecture: str, **settings: Any) -> CoCa:
    head = HeadConfig(**{"classes": CLASSES, "heads": 2, **settings})
    torch.manual_seed(0)
    if architecture == "coca":
        text = tiny_config().text.replace(heads=2)
        return sharpened(build(tiny_config(head=head, text=text))).eval()
    config = tiny_openclip_config().replace(head=head)
    return sharpened(build(config)).eval()


def prepack(architecture: str, *rows: list[int], length: int = 12) -> Tensor:
    if architecture == "coca":
        return torch.tensor([caption(*row, length=length) for row in rows])
    padded = [[BOS, *row, EOS] + [0] * (length - len(row) - 2) for row in rows]
    return torch.tensor(padded)


def class_logits(model: CoCa, images: Tensor, tokens: Tensor | None = None) -> Tensor:
    return head_logits(model, head_tokens(model, images.flatten(0, -4)), tokens)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


both = pytest.mark.parametrize("architecture", ["coca", "openclip"])


def test_a_new_head_finds_all_classes_equally_likely(images: Tensor) -> None:
    model = build(tiny_config(head=HeadConfig(classes=CLASSES, heads=2)))
    assert torch.equal(class_logits(model, images), torch.zeros(2, 3))


@both
def test_a_head_changes_nothing_else_of_its_model(architecture: str, images: Tensor) -> None:
    model = make(architecture)
    assert isinstance(model.config, CoCaConfig | OpenCLIPConfig)
    without = model.config.replace(head=None)
    plain = build(without).eval()
    missing, extra = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert {name.partition(".")[0] for name in extra} == {"head"}
    assert torch.equal(plain.encode_image(images), model.encode_image(images))


@both
def test_the_image_head_reads_the_encoder_alone(architecture: str, images: Tensor) -> None:
    model = make(architecture)
    class_logits(model, images).sum().backward()
    reached = {n.partition(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {"image_encoder", "head"}


@both
def test_frames_are_read_as_a_set(architecture: str) -> None:
    model = make(architecture, images_per_sample=3)
    clip = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    logits = class_logits(model, clip)
    torch.testing.assert_close(class_logits(model, clip.flip(1)), logits)
    one = class_logits(model, clip[:1])
    torch.testing.assert_close(one, logits[:1])


@both
def test_padding_changes_no_logit_of_the_text_head(architecture: str, images: Tensor) -> None:
    model = make(architecture, reads="text")
    rows = ([5, 6, 7], [9])
    short = class_logits(model, images, prepack(architecture, *rows, length=8))
    padded = class_logits(model, images, prepack(architecture, *rows, length=12))
    torch.testing.assert_close(short, padded)
    alone = class_logits(model, images[1:], prepack(architecture, rows[1], length=8))
    torch.testing.assert_close(alone, padded[1:])


@both
def test_the_text_head_never_sees_the_answer(architecture: str, images: Tensor) -> None:
    model = make(architecture, reads="text")
    asked = prepack(architecture, [5, 6, 7], [9])
    answered = prepack(architecture, [5, 6, 7, 20, 21], [9, 30])
    output = model(images, answered)  # it also predicts the answer
    logits = logits_of(head_of(model), output, torch.tensor([4, 2]))
    torch.testing.assert_close(logits, class_logits(model, images, asked))
    other = class_logits(model, images, answered)
    assert not torch.allclose(other, logits)


def test_a_pad_within_a_question_hides_none_of_its_tokens(images: Tensor) -> None:
    """In CLIP's vocabulary, the pad id 0 is also a regular token."""
    model = make("openclip", reads="text")
    tokens = prepack("openclip", [5, 0, 7], [9])
    logits = class_logits(model, images, tokens)
    output = model(images, tokens)
    for lengths in (None, torch.tensor([4, 2])):
        torch.testing.assert_close(logits_of(head_of(model), output, lengths), logits)
    other = class_logits(model, images, prepack("openclip", [5, 0, 8], [9]))
    assert not torch.allclose(other[0], logits[0])


@both
def test_the_text_head_depends_on_the_image_and_on_the_tokens(
    architecture: str, images: Tensor
) -> None:
    model = make(architecture, reads="text")
    logits = class_logits(model, images, prepack(architecture, [5, 6], [5, 6]))
    assert not torch.allclose(logits[0], logits[1])
    same = images[:1].expand(2, -1, -1, -1)
    logits = class_logits(model, same, prepack(architecture, [5, 6], [5, 8]))
    assert not torch.allclose(logits[0], logits[1])


@both
def test_a_pair_is_two_passes_concatenated(architecture: str) -> None:
    """The logits of a pair are the sum over both passes, each with its half of the linear layer."""
    model = make(architecture, reads="text", images_per_sample=2)
    pair = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    tokens = prepack(architecture, [5, 6, 7], [9])
    single = make(architecture, reads="text")
    state = {name: tensor for name, tensor in model.state_dict().items() if "linear" not in name}
    single.load_state_dict({**single.state_dict(), **state})
    linear, half_linear = head_of(model).linear, head_of(single).linear
    halves, bias = linear.weight.chunk(2, dim=1), linear.bias
    total = bias.expand(2, -1)
    with torch.no_grad():
        half_linear.bias.zero_()
        for position, half in enumerate(halves):
            half_linear.weight.copy_(half)
            total = total + class_logits(single, pair[:, position], tokens)
    torch.testing.assert_close(class_logits(model, pair, tokens), total)


def test_another_number_of_images_is_refused(images: Tensor) -> None:
    with pytest.raises(ConfigError, match="reads 2 images per sample, but got 1"):
        head_for(make("coca", images_per_sample=2), images, with_captions=False)


def test_captions_are_not_learned_from_several_images() -> None:
    model = make("coca", images_per_sample=2)
    with pytest.raises(ConfigError, match="captioning_weight to 0"):
        head_for(model, torch.zeros(1, 2, 3, 16, 16), with_captions=True)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads 5 do not divide width 32"):
        tiny_config(head=HeadConfig(classes=CLASSES, heads=5))
    with pytest.raises(ConfigError, match="classes must be different names"):
        HeadConfig(classes=("yes", "yes"))
