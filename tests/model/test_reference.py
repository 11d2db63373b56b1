"""The oracle: `coca.model.reference` is written from the paper, and CoCa computes its numbers."""

from itertools import product
from typing import Literal, cast

import pytest
import torch

from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, PoolerConfig
from coca.model.reference import ReferenceCoCa, contrastive_loss
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from tiny import caption, caption_logits, seed_weights, sharpened, tiny_config, tiny_image

KINDS = ("cascade", "parallel", "none")
LENGTHS: dict[str, list[int]] = {"ragged": [4, 1, 9, 0, 2], "equal": [5, 5, 5], "one": [3]}
"""Words of each caption of a batch: of any length, without padding, and one pair."""


def configuration(kind: str, tied: bool, number: int) -> CoCaConfig:
    """One of 24: each kind of poolers, tied or not, with four shapes of the towers."""
    image, text = tiny_image(), tiny_config().text
    text = text.replace(tie_embeddings=tied)
    embed_dim = (24, 48, 32, 48)[number]
    if number == 1:
        image = image.replace(width=48, heads=4, layers=1)
    elif number == 2:
        text = text.replace(width=32, heads=2, unimodal_layers=1, multimodal_layers=3)
    elif number == 3:
        text = text.replace(unimodal_layers=3, multimodal_layers=1, mlp_width=40)
    pooler_kind = cast(Literal["cascade", "parallel", "none"], kind)
    pooler = PoolerConfig(kind=pooler_kind, captioning_queries=(5, 1, 7, 16)[number], heads=2)
    return tiny_config(image=image, text=text, pooler=pooler, embed_dim=embed_dim)


@pytest.mark.parametrize(("kind", "tied", "number"), list(product(KINDS, (False, True), range(4))))
def test_outputs_loss_and_gradients_equal_the_reference(kind: str, tied: bool, number: int) -> None:
    config = configuration(kind, tied, number)
    seed_weights()
    model, reference = sharpened(CoCa(config)), ReferenceCoCa(config)
    reference.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(number)
    name = list(LENGTHS)[number % 3]
    longest = max(LENGTHS[name]) + 3 + (2 if number == 3 else 0)
    rows = [
        caption(*torch.randint(4, 50, (words,), generator=generator).tolist(), length=longest)
        for words in LENGTHS[name]
    ]
    tokens = torch.tensor(rows)
    images = torch.randn(len(rows), 3, 16, 16, generator=generator)
    reduction: Literal["sum", "mean"] = "mean" if number % 2 else "sum"
    losses = LossConfig(contrastive_reduction=reduction, contrastive_rows=2, caption_chunk=7)
    batch = Batch(images, tokens, tuple(map(str, range(len(rows)))), 0)

    output = model(images, tokens)
    image_embedding, text_embedding, logits = reference(images, tokens)
    torch.testing.assert_close(output.image_embedding, image_embedding)
    torch.testing.assert_close(output.text_embedding, text_embedding)
    torch.testing.assert_close(model.encode_image(images), image_embedding)
    torch.testing.assert_close(model.encode_text(tokens), text_embedding)
    torch.testing.assert_close(caption_logits(model, images, tokens), logits, rtol=1e-5, atol=1e-5)
    states = output.decoded.labelled()[0] @ model.vocabulary_weight.T
    torch.testing.assert_close(states, logits[model.label_mask(tokens)], rtol=1e-5, atol=1e-5)

    found = CoCaObjective(losses)(model, batch).total
    match = contrastive_loss(image_embedding, text_embedding, reference.log_scale.exp())
    # OpenCLIP's mean is half of the paper's sum.
    paper = reference.loss(images, tokens)
    torch.testing.assert_close(model.loss(images, tokens), paper, rtol=2e-6, atol=0)
    loss = paper - (match / 2 if reduction == "mean" else 0)
    torch.testing.assert_close(found, loss, rtol=2e-6, atol=0)
    expected = dict(reference.named_parameters())
    names = [key for key, _ in model.named_parameters()]
    theirs = torch.autograd.grad(loss, [expected.pop(key) for key in names])
    ours = torch.autograd.grad(found, list(model.parameters()))
    total = torch.cat([gradient.flatten() for gradient in theirs]).norm()
    for key, mine, gradient in zip(names, ours, theirs, strict=True):
        assert (mine - gradient).norm() <= 1e-6 * total, key
    assert not expected
