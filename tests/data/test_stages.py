"""Progressive resolution: the size of an image is a pure function of its position in the run."""

from typing import Any

import pytest
import torch

from coca.data.batch import Batch
from coca.data.loading.batches import AugmentStage
from coca.processing.augment import Augment, AugmentConfig
from coca.processing.image import ImageConfig
from tiny_loader import make_loader, same, take, two_sources


def sized(side: int) -> Augment:
    return Augment(AugmentConfig(flip=0.5), ImageConfig(image_size=side))


# Batches contain 8 samples, so the second stage begins within batch 2 and waits for batch 3.
STAGES = (AugmentStage(20, sized(4)), AugmentStage(40, sized(6)))


def run(count: int, **options: Any) -> list[Batch]:
    return take(make_loader(*two_sources(), stages=STAGES, augment=sized(8), **options), count)


def sides(batches: list[Batch]) -> list[int]:
    assert all(batch.images.shape[2] == batch.images.shape[3] for batch in batches)
    return [batch.images.shape[3] for batch in batches]


def test_images_grow_from_stage_to_stage_and_a_batch_has_one_size() -> None:
    assert sides(run(7)) == [4, 4, 4, 6, 6, 8, 8]


def test_stages_leave_the_order_and_the_tokens_as_they_are() -> None:
    plain = take(make_loader(*two_sources(), augment=sized(8)), 7)
    for staged, whole in zip(run(7), plain, strict=True):
        assert staged.keys == whole.keys
        assert torch.equal(staged.tokens, whole.tokens)
    assert same(run(7)[5:], plain[5:])


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_have_one_size_at_each_step(world_size: int) -> None:
    alone = run(7)
    ranks = [run(7, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(alone):
        parts = torch.cat([of_rank[step].images for of_rank in ranks])
        assert torch.equal(parts, whole.images)
