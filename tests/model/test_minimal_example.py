"""The library computes the outputs, gradients and captions of `examples/minimal_coca.py`."""

from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch

from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, PoolerConfig
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from developer_data import sample_file
from minimal_example import minimal_coca, minimal_model
from tiny import caption, caption_logits, seed_weights, sharpened, tiny_config, tiny_image


def copy_weights(model: CoCa, reference: Any) -> None:
    """Load the weights of the library's model; only a tied vocabulary has no entry of its own."""
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert missing == ["vocabulary.weight"] * model.config.text.tie_embeddings
    assert unexpected == []


KINDS = ("cascade", "parallel", "none")
LENGTHS: dict[str, list[int]] = {"ragged": [4, 1, 9, 0, 2], "equal": [5, 5, 5], "one": [3]}
"""Words of each caption of a batch: of any length, without padding, and one pair."""


def configuration(kind: str, tied: bool, number: int) -> CoCaConfig:
    """One of 24: each kind of poolers, tied or not, with four shapes of the towers."""
    heads, embed_dim = (2, 4, 2, 2)[number], (24, 48, 32, 48)[number]
    image = tiny_image().replace(heads=heads, mlp_width=128)
    text = tiny_config().text.replace(heads=heads, mlp_width=192, tie_embeddings=tied)
    if number == 1:
        image = image.replace(width=48, mlp_width=192, layers=1)
    elif number == 2:
        text = text.replace(width=32, mlp_width=128, unimodal_layers=1, multimodal_layers=3)
    elif number == 3:
        text = text.replace(unimodal_layers=3, multimodal_layers=1)
    pooler_kind = cast(Literal["cascade", "parallel", "none"], kind)
    pooler = PoolerConfig(kind=pooler_kind, captioning_queries=(5, 1, 7, 16)[number], heads=heads)
    return tiny_config(image=image, text=text, pooler=pooler, embed_dim=embed_dim)


@pytest.mark.parametrize(("kind", "tied", "number"), list(product(KINDS, (False, True), range(4))))
def test_outputs_losses_and_gradients_are_equal(kind: str, tied: bool, number: int) -> None:
    config = configuration(kind, tied, number)
    seed_weights()
    model, reference = sharpened(CoCa(config)), minimal_model(config)
    copy_weights(model, reference)
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
    # OpenCLIP's mean is half of the paper's sum.
    match, words = reference.losses(images, tokens)
    paper = match + 2 * words
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


@pytest.fixture(scope="module")
def library() -> CoCa:
    text = tiny_config().text.replace(heads=2, mlp_width=192)
    pooler = PoolerConfig(captioning_queries=5, heads=2)
    seed_weights()
    image = tiny_image().replace(mlp_width=128)
    return sharpened(CoCa(tiny_config(image=image, text=text, pooler=pooler))).eval()


@pytest.fixture(scope="module")
def minimal(library: CoCa) -> Any:
    model = minimal_model(library.config)
    copy_weights(library, model)
    return model


def test_greedy_captions_equal_those_of_the_library(library: CoCa, minimal: Any) -> None:
    images = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    decoding = GenerationConfig(num_beams=1)
    tokens = library.image_tokens(images)
    wanted = [best[0].token_ids for best in generate(library, tokens, decoding=decoding)]
    ours = minimal.greedy(images)
    assert ours == [[one for one in row if one != 2] for row in wanted]
    assert len(set(map(tuple, ours))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("data", ["drawn", "flickr8k"])
def test_training_lowers_the_loss_and_a_search_answers(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--steps", "12", "--batch-size", "32", "--database", str(tmp_path / "images.db")]
    if data == "flickr8k":
        shard = sample_file("flickr8k", "the minimal example on photos") / "train-0000.tar"
        (tmp_path / shard.name).symlink_to(shard)
        arguments += ["--shards", str(tmp_path), "--query", "a dog runs on grass"]
    history = minimal_coca.main(arguments)
    assert sum(history[-3:]) < sum(history[:3]) - 3
    printed = capsys.readouterr().out
    assert "caption of image 0: " in printed
    assert printed.count("  image ") == 5
