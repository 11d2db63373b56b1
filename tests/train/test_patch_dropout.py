"""Patch dropout within a run: its schedule, and independence of restarts and micro-batches."""

from pathlib import Path

import torch
from torch import Tensor, nn

from coca.model.coca import CoCa
from coca.train.optim.schedule import ScheduleConfig, set_patch_dropout
from coca.train.trainer import Trainer
from tiny import tiny_config, transformer
from tiny_architectures import openclip
from tiny_run import tiny_trainer

HALF = ScheduleConfig(warmup=0.25, patch_dropout=0.5, unmasked_tail=0.25)


def seen_patches(trainer: Trainer[CoCa]) -> list[Tensor]:
    """Records the input of the image encoder in each forward pass."""
    seen: list[Tensor] = []
    transformer(trainer.model).patch_embedding.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].clone())
    )
    return seen


def test_the_tail_of_a_run_sees_whole_images(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, schedule=HALF)
    seen = seen_patches(trainer)
    trainer.fit()
    assert [patches.shape[1] for patches in seen] == [8] * 9 + [16] * 3


def test_both_passes_of_a_step_in_parts_see_the_same_patches(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, schedule=HALF, micro_batch=2, steps=2)
    seen = seen_patches(trainer)
    trainer.fit()
    first, second, again_first, again_second, *_ = seen
    assert [len(patches) for patches in seen] == [2] * 8
    assert torch.equal(first, again_first)
    assert torch.equal(second, again_second)
    assert not torch.equal(first, seen[4])


def test_both_architectures_and_what_wraps_them_leave_out_patches() -> None:
    images = torch.randn(2, 3, 16, 16)
    for model, tokens in ((CoCa(tiny_config()), 8), (openclip(), 1 + 8)):
        set_patch_dropout(nn.Sequential(model), 0.5)
        assert model.image_encoder(images).shape[1] == tokens
        set_patch_dropout(nn.Sequential(model), 0.0)
        assert model.image_encoder(images).shape[1] == tokens + 8
