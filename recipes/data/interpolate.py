"""Interpolate between the weights before and after a stage of training.

    python recipes/data/interpolate.py runs/everyday-de runs/everyday-third runs/mean --weight 0.6

WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903): such a mean keeps more of what the model knew than
the last weights, and often scores higher than both. Tensors that only the later model has, such as
a class branch, are its own. Captions keep the list of words before the stage.
"""

import argparse
from pathlib import Path

import torch

from coca.inference.loading import load
from coca.model.pretrained import save_model
from coca.processing.processor import Processor


@torch.no_grad()
def main() -> None:
    """Write the folder as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", help="name or folder")
    parser.add_argument("after", help="name or folder; has all tensors of BEFORE")
    parser.add_argument("out", type=Path, help="folder of the new model")
    parser.add_argument("--weight", type=float, default=0.5, help="of AFTER, 0 to 1")
    parser.add_argument("--class-scale", type=float, help="scale of the class branch, such as 0.7")
    given = parser.parse_args()
    before, after = (load(name, prepack=False) for name in (given.before, given.after))
    if not 0 <= given.weight <= 1:
        parser.error(f"--weight must be from 0 to 1, got {given.weight}")
    state = after.model.state_dict()
    if given.class_scale is not None and "class_branch.scale" not in state:
        parser.error(f"{given.after} has no class branch; leave out --class-scale")
    for name, tensor in before.model.state_dict().items():
        if tensor.is_floating_point():
            state[name].lerp_(tensor.to(state[name]), 1 - given.weight)
    if given.class_scale is not None:
        state["class_branch.scale"].fill_(given.class_scale)
    later, words = after.processor, before.processor.caption_words
    Processor(later.image, later.tokenizer, later.context_length, caption_words=words).save(
        given.out
    )
    save_model(given.out, after.model)


if __name__ == "__main__":
    main()
