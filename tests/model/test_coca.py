import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.encoders.vit import ViTConfig
from coca.model.losses.captioning_loss import captioning_loss
from coca.model.losses.contrastive_loss import clamp_temperature_, contrastive_loss
from tiny import (
    CLS,
    PAD,
    caption,
    caption_logits,
    seed_weights,
    tiny_config,
    tiny_image,
    transformer,
)


def assert_close(one: Tensor, other: Tensor) -> None:
    # fp32 sums of a few hundred terms differ by about 1e-6 when their order changes.
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", [1, 4, 8])
def test_padding_changes_no_embedding_and_no_logit(
    tiny_model: CoCa, images: Tensor, tokens: Tensor, extra: int
) -> None:
    padded = F.pad(tokens, (0, extra), value=PAD)
    assert_close(tiny_model.encode_text(padded), tiny_model.encode_text(tokens))
    logits = caption_logits(tiny_model, images, padded)[:, : tokens.shape[1]]
    assert_close(logits, caption_logits(tiny_model, images, tokens))


def test_text_embeddings_are_equal_with_and_without_packing(
    tiny_model: CoCa, tokens: Tensor
) -> None:
    padded = tiny_model.encode_text(tokens, padded=True)
    torch.testing.assert_close(padded, tiny_model.encode_text(tokens), rtol=1e-5, atol=1e-6)


def test_a_caption_alone_equals_the_caption_in_a_batch(
    tiny_model: CoCa, images: Tensor, tokens: Tensor
) -> None:
    alone = tiny_model.encode_text(torch.tensor([caption(11, length=4)]))
    assert_close(alone[0], tiny_model.encode_text(tokens)[1])


@pytest.mark.parametrize("position", [1, 2, 3, 4])
def test_a_later_token_leaves_earlier_predictions_unchanged(
    tiny_model: CoCa, images: Tensor, tokens: Tensor, position: int
) -> None:
    changed = tokens.clone()
    changed[0, position] = 40
    before, after = (caption_logits(tiny_model, images, ids)[0] for ids in (tokens, changed))
    assert_close(after[:position], before[:position])
    assert not torch.allclose(after[position], before[position], atol=1e-3)


def test_the_text_embedding_depends_on_every_token(tiny_model: CoCa, tokens: Tensor) -> None:
    reference = tiny_model.encode_text(tokens)[0]
    for position in range(1, 5):
        changed = tokens.clone()
        changed[0, position] = 40
        assert not torch.allclose(tiny_model.encode_text(changed)[0], reference, atol=1e-3)


def test_the_text_embedding_never_sees_the_image(
    tiny_model: CoCa, images: Tensor, tokens: Tensor
) -> None:
    first, second = tiny_model(images, tokens), tiny_model(images.flip(0), tokens)
    assert torch.equal(first.text_embedding, second.text_embedding)
    assert not torch.allclose(first.decoded.states, second.decoded.states, atol=1e-3)


def test_cls_is_never_read_by_a_caption_state(
    tiny_model: CoCa, images: Tensor, tokens: Tensor
) -> None:
    before = tiny_model(images, tokens).decoded.states
    with torch.no_grad():
        tiny_model.unimodal_decoder.token_embedding.weight[CLS].add_(3.0)
    assert_close(tiny_model(images, tokens).decoded.states, before)


def test_positions_at_the_native_size_are_untouched_and_constants_survive_resizing(
    tiny_model: CoCa,
) -> None:
    encoder = transformer(tiny_model)
    assert encoder.positions_for(4, 4) is encoder.positions
    with torch.no_grad():
        encoder.positions.fill_(0.25)
    assert_close(encoder.positions_for(8, 6), torch.full((48, 32), 0.25))


def test_a_caption_longer_than_the_context_is_refused(tiny_model: CoCa) -> None:
    with pytest.raises(ConfigError, match="17 tokens is longer than context_length 16"):
        tiny_model.encode_text(torch.tensor([caption(9, length=17)]))


def test_the_temperature_starts_at_the_papers_value_and_is_clamped(tiny_model: CoCa) -> None:
    assert tiny_model.logit_scale.item() == pytest.approx(1 / 0.07)
    for wild, bound in ((math.log(1e4), 100.0), (-3.0, 1.0)):
        with torch.no_grad():
            tiny_model.log_scale.fill_(wild)
        clamp_temperature_(tiny_model.log_scale)
        assert tiny_model.logit_scale.item() == pytest.approx(bound)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_fp32(images: Tensor, tokens: Tensor, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = CoCa(tiny_config()).eval()
    exact = model(images, tokens)
    half = model.to(dtype)(images.to(dtype), tokens)
    for name in ("image_embedding", "text_embedding"):
        cosine = F.cosine_similarity(getattr(exact, name), getattr(half, name).float())
        assert cosine.min() > 0.999
    wide = model.encode_image(torch.randn(1, 3, 32, 32, dtype=dtype))
    assert wide.dtype == dtype


def test_residual_branches_start_smaller_in_a_deeper_model() -> None:
    torch.manual_seed(0)
    model, text = CoCa(tiny_config()), tiny_config().text
    scale = (2 * (text.unimodal_layers + text.multimodal_layers)) ** -0.5
    for decoder in (model.unimodal_decoder, model.multimodal_decoder):
        for name, weight in decoder.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                assert weight.std().item() == pytest.approx(scale * weight.shape[1] ** -0.5, 0.15)


@pytest.mark.parametrize("tied", [True, False])
def test_an_untrained_model_is_at_chance(tied: bool) -> None:
    torch.manual_seed(0)
    text = tiny_config().text.replace(tie_embeddings=tied, vocab_size=500)
    model = CoCa(tiny_config(text=text))
    images = torch.randn(8, 3, 16, 16)
    tokens = torch.randint(5, 500, (8, 12))
    logits = caption_logits(model, images, tokens)
    # Unit logits cost half a nat above log V on average.
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert math.log(500) - 0.1 < loss.item() < math.log(500) + 1.0


def test_untrained_queries_attend_to_different_tokens(images: Tensor) -> None:
    torch.manual_seed(0)
    queries = CoCa(tiny_config()).image_tokens(images)[0]
    cosines = F.cosine_similarity(queries[:, None], queries[None], dim=2)
    assert (cosines - torch.eye(len(queries))).max() < 0.99


@pytest.mark.parametrize("left_out", ["image_embedding", "text_embedding", "decoded", "none"])
def test_the_loss_has_the_parts_that_the_model_computes(
    tiny_model: CoCa,
    images: Tensor,
    tokens: Tensor,
    left_out: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = tiny_model(images, tokens)
    embeddings = whole.image_embedding, whole.text_embedding
    contrastive, _ = contrastive_loss(*embeddings, tiny_model.logit_scale)
    states, targets = whole.decoded.labelled()
    captioning = 2 * captioning_loss(states, targets, tiny_model.vocabulary_weight)
    parts = {"none": contrastive + captioning, "decoded": contrastive}
    if left_out != "none":
        part = dataclasses.replace(whole, **{left_out: None})
        monkeypatch.setattr(tiny_model, "forward", lambda images, tokens: part)
    assert_close(tiny_model.loss(images, tokens), parts.get(left_out, captioning))


class KeptEmbeddings(ViTConfig):
    @property
    def keeps_embeddings(self) -> bool:
        return True


def test_the_loss_of_a_model_with_kept_embeddings_is_that_of_captions(
    images: Tensor, tokens: Tensor
) -> None:
    seed_weights()
    model = CoCa(tiny_config(image=KeptEmbeddings(**tiny_image().model_dump()))).eval()
    states, targets = model.decode(tokens, model.image_tokens(images)).labelled()
    wanted = 2 * captioning_loss(states, targets, model.vocabulary_weight)
    assert_close(model.loss(images, tokens), wanted)
    with pytest.raises(ConfigError, match="has captions only"):
        model.encode_image(images)


def test_the_loss_of_a_series_of_one_image_is_that_of_the_image(
    tiny_model: CoCa, images: Tensor, tokens: Tensor
) -> None:
    assert_close(tiny_model.loss(images[:, None], tokens), tiny_model.loss(images, tokens))
