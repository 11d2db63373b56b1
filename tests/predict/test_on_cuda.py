"""Vectors and captions on CUDA are the CPU's; without CUDA, on a pretended device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from fake_cuda import DEVICE_KINDS, on_cpu, on_device
from tiny_architectures import openclip, openclip_batch
from tiny_model import write_model

TEXTS = ("a dog", "two cats on a mat", "no")


def photos() -> list[Image.Image]:
    chance = np.random.default_rng(0)
    return [
        Image.fromarray(chance.integers(0, 255, (20 + n, 24, 3), dtype=np.uint8)) for n in range(3)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


USES: dict[str, Callable[[TorchPredictor], Any]] = {
    "images": lambda it: it.embed_images(photos()),
    "texts": lambda it: it.embed_texts(TEXTS),
    "scores": lambda it: it.score(photos(), TEXTS),
    "labels": lambda it: it.classify(photos(), TEXTS),
    "greedy": lambda it: it.caption(photos(), num_beams=1),
    "beams": lambda it: it.caption(photos(), num_beams=3, num_return_sequences=2, prompt="a"),
    "drawn": lambda it: it.caption(
        photos(), temperature=0.8, top_k=5, top_p=0.9, repetition_penalty=1.2, seed=1
    ),
}


@pytest.mark.parametrize("kind", DEVICE_KINDS)
@pytest.mark.parametrize("use", USES)
def test_a_predictor_gives_what_it_gives_on_the_cpu(folder: Path, use: str, kind: str) -> None:
    made = load_coca(folder, device="cpu")
    wanted = USES[use](made)
    with on_device(kind) as (device, _):
        made.model.to(device)
        found = USES[use](made)
    assert_alike(found, wanted)


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_openclips_model_embeds_and_writes_what_it_does_on_the_cpu(kind: str) -> None:
    def uses(device: torch.device) -> list[Any]:
        model, batch = openclip().eval().to(device), openclip_batch().to(device)
        seen = model.image_tokens(batch.images)
        written = [
            [one.token_ids for one in row]
            for beams in (1, 3)
            for row in generate(model, seen, decoding=GenerationConfig(num_beams=beams))
        ]
        return [model.encode_image(batch.images), model.encode_text(batch.tokens), seen, written]

    with torch.no_grad():
        wanted = uses(torch.device("cpu"))
        with on_device(kind) as (device, _):
            found = on_cpu(uses(device))
    assert_alike(found, wanted)


def assert_alike(found: Any, wanted: Any) -> None:
    """Captions and labels are the same, and numbers differ in the last digits of fp32."""
    if isinstance(wanted, str | int | None):
        assert found == wanted
    elif isinstance(wanted, float | np.ndarray | torch.Tensor):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_alike(one, other)
    else:
        assert_alike([*vars(found).values()], [*vars(wanted).values()])
