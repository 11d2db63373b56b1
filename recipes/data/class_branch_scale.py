"""Give the class branch of a model another scale, and write the model into a new folder.

    python recipes/data/class_branch_scale.py runs/everyday/half runs/everyday/scaled 1

The scale is the length of the part of an image vector that comes from the classifier, in multiples
of the other part. Training learns it from the captions of its photos, where names of classes are
rare; people type such names, so that a longer part finds more (benchmarks/lab-notes.md).
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

NAME = "class_branch.scale"


def rescale(model: Path, out: Path, scale: float) -> None:
    """Write a copy of a model folder whose class branch has the scale."""
    shutil.copytree(model, out)
    weights = load_file(model / "model.safetensors")
    weights[NAME].fill_(scale)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the copy that the arguments of the command line describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model folder with a class branch")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("scale", type=float, help="above 0")
    given = parser.parse_args(arguments)
    rescale(given.model, given.out, given.scale)
    print(f"the class branch has the scale {given.scale:g} in {given.out}")


if __name__ == "__main__":
    main()
