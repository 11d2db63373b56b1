"""`examples/minimal_coca.py` computes the losses, gradients and captions of the library."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import PoolerConfig
from coca.model.generation.generate import generate
from coca.runtime.generation_config import GenerationConfig
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from developer_data import sample_file
from tiny import caption, seed_weights, sharpened, tiny_config, tiny_image

FILE = Path(__file__).parents[2] / "examples" / "minimal_coca.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("minimal_coca", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library() -> CoCa:
    text = tiny_config().text.replace(heads=2, mlp_width=192)
    pooler = PoolerConfig(captioning_queries=5, heads=2)
    seed_weights()
    image = tiny_image().replace(mlp_width=128)
    return sharpened(CoCa(tiny_config(image=image, text=text, pooler=pooler))).eval()


@pytest.fixture(scope="module")
def minimal(example: Any, library: CoCa) -> Any:
    image = {"image_size": 16, "patch_size": 4, "image_width": 32, "image_layers": 2, "queries": 5}
    text = {"text_width": 48, "context_length": 16, "embed_dim": 24}
    model = example.CoCa(example.Config(50, **image, **text, heads=2))
    model.load_state_dict(library.state_dict())
    return model


def test_losses_and_gradients_equal_those_of_the_library(library: CoCa, minimal: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 16, 16, generator=generator)
    rows = [torch.randint(4, 50, (words,), generator=generator) for words in (4, 0, 9, 2)]
    tokens = torch.tensor([caption(*row.tolist(), length=12) for row in rows])
    losses = CoCaObjective(LossConfig())(library, Batch(images, tokens, tuple("abcd"), 0))
    contrastive, captioning = minimal.losses(images, tokens)
    torch.testing.assert_close(contrastive, losses.parts["contrastive"], rtol=1e-5, atol=0)
    torch.testing.assert_close(captioning, losses.parts["captioning"], rtol=1e-5, atol=0)
    theirs = torch.autograd.grad(losses.total, list(library.parameters()))
    named = dict(minimal.named_parameters())
    loss = contrastive + 2 * captioning
    ours = torch.autograd.grad(loss, [named[name] for name, _ in library.named_parameters()])
    total = torch.cat([gradient.flatten() for gradient in theirs]).norm()
    for name, mine, gradient in zip(named, ours, theirs, strict=True):
        assert (mine - gradient).norm() <= 1e-5 * total, name


def test_greedy_captions_equal_those_of_the_library(library: CoCa, minimal: Any) -> None:
    images = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    decoding = GenerationConfig(num_beams=1)
    _, tokens = library.encode_image_and_tokens(images)[:2]
    wanted = [best[0].token_ids for best in generate(library, tokens, decoding=decoding)]
    ours = minimal.greedy(images)
    assert ours == [[one for one in row if one != 2] for row in wanted]
    assert len(set(map(tuple, ours))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("data", ["drawn", "flickr8k"])
def test_training_lowers_the_loss_and_a_search_answers(
    data: str, example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--steps", "12", "--batch-size", "32", "--database", str(tmp_path / "images.db")]
    if data == "flickr8k":
        shard = sample_file("flickr8k", "the minimal example on photos") / "train-0000.tar"
        (tmp_path / shard.name).symlink_to(shard)
        arguments += ["--shards", str(tmp_path), "--query", "a dog runs on grass"]
    history = example.main(arguments)
    assert sum(history[-3:]) < sum(history[:3]) - 3
    printed = capsys.readouterr().out
    assert "caption of image 0: " in printed
    assert printed.count("  image ") == 5
