"""OpenCLIP's CoCa compared with open_clip_torch, with the same random weights."""

import copy
from typing import Literal

import pytest
import torch
from open_clip.coca_model import CoCa as Peer
from open_clip.loss import CoCaLoss
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.heads import head_of
from coca.model.losses.captioning_loss import captioning_loss
from coca.model.losses.contrastive_loss import contrastive_loss
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_weights import restore_state_dict
from tiny import caption_logits
from tiny_openclip import CONTEXT, caption_rows, ours_of, peer, tiny_openclip_config

RAGGED = (5, 3, CONTEXT, CONTEXT - 1, 2, 8)


def assert_close(one: Tensor, other: Tensor) -> None:
    # Both sides are fp32 sums of some hundred terms in different orders.
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=[48, 32], ids=["wide image", "equal widths"])
def both(request: pytest.FixtureRequest) -> tuple[Peer, OpenCLIP]:
    model = peer(image_width=request.param)
    return model, ours_of(model, image_width=request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(len(RAGGED), 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=[False, True], ids=["words", "words and zeros"])
def tokens(request: pytest.FixtureRequest) -> Tensor:
    return caption_rows(*RAGGED, zeros=request.param)


def test_image_embeddings_and_tokens_equal_the_peers(
    both: tuple[Peer, OpenCLIP], images: Tensor
) -> None:
    theirs, ours = both
    embedding, tokens = theirs._encode_image(images)
    assert_close(ours.encode_image(images), embedding)
    assert_close(ours.image_tokens(images), tokens)
    assert ours.image_tokens(images).shape[1] == 6


def test_text_embeddings_equal_the_peers(both: tuple[Peer, OpenCLIP], tokens: Tensor) -> None:
    theirs, ours = both
    assert_close(ours.encode_text(tokens), theirs.encode_text(tokens))


def test_trimmed_captions_have_the_embedding_of_padded_ones(
    both: tuple[Peer, OpenCLIP], tokens: Tensor
) -> None:
    theirs, ours = both
    for row, length in zip(tokens, RAGGED, strict=True):
        assert_close(ours.encode_text(row[None, :length]), theirs.encode_text(row[None]))


def test_caption_logits_equal_the_peers_at_real_positions(
    both: tuple[Peer, OpenCLIP], images: Tensor, tokens: Tensor
) -> None:
    theirs, ours = both
    wanted = theirs(images, tokens)["logits"]
    logits = caption_logits(ours, images, tokens)
    for row, length in enumerate(RAGGED):
        # The peer drops the last position of the context, which has no label.
        real = min(length, CONTEXT - 1)
        assert_close(logits[row, :real], wanted[row, :real])


def test_packed_states_equal_the_padded_ones(
    both: tuple[Peer, OpenCLIP], images: Tensor, tokens: Tensor
) -> None:
    _, ours = both
    states, targets = ours(images, tokens).decoded.labelled()
    plain = caption_logits(ours, images, tokens)[ours.label_mask(tokens)]
    assert_close(F.linear(states, ours.vocabulary_weight), plain)
    assert targets.tolist() == [word for row in tokens.tolist() for word in row[1:] if word]


def test_loss_and_every_gradient_equal_the_peers(
    both: tuple[Peer, OpenCLIP], images: Tensor, tokens: Tensor
) -> None:
    theirs, ours = both
    wanted = theirs(images, tokens)
    parts = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)(**wanted)
    sum(parts).backward()

    output = ours(images, tokens)
    contrastive = contrastive_loss(
        output.image_embedding, output.text_embedding, ours.logit_scale, reduction="mean"
    ).loss
    states, targets = output.decoded.labelled()
    captioning = captioning_loss(states, targets, ours.vocabulary_weight)
    (contrastive + 2 * captioning).backward()
    assert_close(contrastive, parts[0])
    assert_close(2 * captioning, parts[1])

    gradients = {
        name: weight.grad for name, weight in ours.named_parameters() if weight.grad is not None
    }
    restored = restore_state_dict(gradients, ours.config)
    for name, weight in theirs.named_parameters():
        scale = weight.grad.abs().max()
        difference = (restored[name] - weight.grad).abs().max()
        assert difference <= 1e-5 * scale + 1e-7, f"{name} differs by {difference} of {scale}"


def test_a_corrected_class_token_sees_its_tokens_and_itself(tokens: Tensor) -> None:
    theirs = peer()
    theirs.text.correct_cls_mask = True
    ours = ours_of(theirs)
    legacy = ours.encode_text(tokens)
    ours = OpenCLIP(ours.config.replace(class_mask="corrected")).eval()
    ours.load_state_dict(ours_of(theirs).state_dict())
    assert_close(ours.encode_text(tokens), theirs.encode_text(tokens))
    assert not torch.allclose(ours.encode_text(tokens), legacy, atol=1e-3)


@pytest.mark.parametrize("mask", ["legacy", "corrected"])
def test_each_part_alone_equals_that_of_the_forward_pass(
    images: Tensor, tokens: Tensor, mask: Literal["legacy", "corrected"]
) -> None:
    config = tiny_openclip_config().replace(class_mask=mask)
    model = OpenCLIP(config).eval()
    full = model(images, tokens)
    assert_close(model.encode_image(images), full.image_embedding)
    assert_close(model.encode_text(tokens), full.text_embedding)
    alone = model.decode(tokens, model.image_tokens(images))
    assert_close(alone.states, full.decoded.states)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_fp32(images: Tensor, tokens: Tensor, dtype: torch.dtype) -> None:
    model = ours_of(peer())
    half = copy.deepcopy(model).to(dtype)
    half_images = images.to(dtype)
    for exact, rounded in (
        (model.encode_image(images), half.encode_image(half_images)),
        (model.encode_text(tokens), half.encode_text(tokens)),
        (model.image_tokens(images), half.image_tokens(half_images)),
        (caption_logits(model, images, tokens), caption_logits(half, half_images, tokens)),
        (model(images, tokens).decoded.states, half(half_images, tokens).decoded.states),
    ):
        assert rounded.dtype == dtype
        assert F.cosine_similarity(exact, rounded.float(), dim=-1).min() > 0.999


def test_patch_dropout_leaves_out_patches_and_never_the_class_token(images: Tensor) -> None:
    encoder = ours_of(peer()).image_encoder
    # Without blocks each token is that of its own patch.
    encoder.blocks = nn.ModuleList()
    whole = encoder.eval()(images)
    encoder.patch_dropout = 0.5
    assert torch.equal(encoder(images), whole)
    some = encoder.train()(images)
    found = (some[:, :, None] - whole[:, None]).abs().amax(-1) < 1e-5  # (B, K, P)
    assert some.shape[1] == 1 + 2
    assert bool((found.sum(-1) == 1).all())
    kept = [tuple(row) for row in found.int().argmax(-1).tolist()]
    assert all(row[0] == 0 and 0 not in row[1:] and len({*row}) == 3 for row in kept)
    assert len({*kept}) > 1


def test_an_untrained_model_starts_like_a_coca_and_learns_everywhere(
    images: Tensor, tokens: Tensor
) -> None:
    torch.manual_seed(0)
    model = OpenCLIP(tiny_openclip_config())
    assert model.logit_scale.item() == pytest.approx(1 / 0.07)
    output = model(images, tokens)
    loss = F.linear(output.decoded.labelled()[0], model.vocabulary_weight).square().mean()
    total = loss + output.image_embedding.sum() + output.text_embedding.sum() + model.logit_scale
    total.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_what_the_model_cannot_do_raises(images: Tensor, tokens: Tensor) -> None:
    model = OpenCLIP(tiny_openclip_config())
    with pytest.raises(ConfigError, match="no head that answers"):
        head_of(model)
    with pytest.raises(ConfigError, match="13 tokens is longer than context_length 12"):
        model.encode_text(torch.ones(1, CONTEXT + 1, dtype=torch.int64))
    with pytest.raises(ConfigError, match="24 x 16 pixels does not fit: this model reads 16 x 16"):
        model.encode_image(torch.zeros(1, 3, 24, 16))
