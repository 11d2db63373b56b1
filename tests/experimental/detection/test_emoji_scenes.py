import random

import numpy as np
from PIL import Image

from emoji_scenes import CLASSES, MAX_OVERLAP, OTHERS, compose

SIDE = 96


def drawings() -> dict[str, Image.Image]:
    """Plain discs; those to be found are of pure red, which no background has."""
    found = {}
    for name in (*CLASSES, *OTHERS):
        y, x = np.mgrid[:40, :40] - 19.5
        inside = x**2 + y**2 < 19**2
        pixels = np.zeros((40, 40, 4), np.uint8)
        pixels[inside] = (255, 0, 0, 255) if name in CLASSES else (0, 0, 0, 255)
        found[name] = Image.fromarray(pixels)
    return found


def test_boxes_follow_from_the_seed_and_are_tight_and_within_the_scene() -> None:
    for seed in range(10):
        scene, found = compose(drawings(), SIDE, random.Random(seed))
        assert compose(drawings(), SIDE, random.Random(seed))[1] == found
        red = np.asarray(scene).astype(int)
        red_places = (red[..., 0] > 240) & (red[..., 1:].max(-1) < 15)
        covered = np.zeros((SIDE, SIDE), bool)
        for _, (left, top, right, bottom) in found:
            assert 0 <= left < right <= SIDE
            assert 0 <= top < bottom <= SIDE
            covered[top:bottom, left:right] = True
            inside = red_places[top:bottom, left:right]
            # Another disc may cover a little of one side.
            assert inside.any(0).mean() > 1 - 2 * MAX_OVERLAP
            assert inside.any(1).mean() > 1 - 2 * MAX_OVERLAP
        assert not red_places[~covered].any()
