import dataclasses

import pytest
import torch

from coca.data.batch import Batch
from coca.processing.image import ImageConfig, ImageTransform


def test_bytes_become_the_models_input_where_they_arrive() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    config = ImageConfig(image_size=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    batch = Batch(pixels, tokens, ("a", "b"), 0, image_config=config)
    for part in (batch.to("cpu"), batch.to("cpu").to("cpu")):
        assert torch.equal(part.images, ImageTransform(config).normalize(pixels))
    (of_one, _) = batch.split(1)
    assert torch.equal(of_one.to("cpu").images, batch.to("cpu").images[:1])


def test_parts_of_a_batch_are_its_pairs_in_order() -> None:
    images, tokens = torch.randn(5, 3, 4, 4), torch.arange(40).reshape(5, 8)
    whole = Batch(images, tokens, tuple("abcde"), 10, class_targets=torch.eye(5))
    parts = whole.split(2)
    assert [part.keys for part in parts] == [("a", "b"), ("c", "d"), ("e",)]
    assert [part.start for part in parts] == [10, 12, 14]
    for name in ("images", "tokens", "class_targets"):
        torch.testing.assert_close(
            torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)
        )
    assert dataclasses.replace(whole, class_targets=None).split(3)[1].class_targets is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_a_batch_is_pinned_with_all_of_its_tensors() -> None:
    tensors = (torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 5))
    pinned = Batch(tensors[0], tensors[1], ("a", "b"), 0, class_targets=tensors[2]).pin_memory()
    assert pinned.class_targets is not None
    assert pinned.images.is_pinned()
    assert pinned.tokens.is_pinned()
    assert pinned.class_targets.is_pinned()
