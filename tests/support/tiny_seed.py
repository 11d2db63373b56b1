"""Seed of the tiny models' random weights, which `TINY_SEED` shifts.

A test that passes with one draw of the weights and fails with another depends on numbers that it
does not state; so does one that fails on another processor, whose sums differ in the last bits.
"""

import os

import torch

SHIFT = int(os.environ.get("TINY_SEED", "0"))
"""Added to each seed; 0 by default."""


def seed_weights(seed: int = 0) -> None:
    """Seed torch's global generator, from which modules draw their initial weights."""
    torch.manual_seed(seed + SHIFT)


def weights_generator(seed: int) -> torch.Generator:
    """Return a generator that draws weights."""
    return torch.Generator().manual_seed(seed + SHIFT)
