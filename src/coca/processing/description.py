"""What a model makes of one image: embedding, nouns and caption."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float32
from numpy import ndarray


class Description(NamedTuple):
    """What a model makes of one image."""

    vector: Float32[ndarray, " E"]
    """Embedding, of length 1."""
    nouns: Mapping[str, int]
    """Nouns that a classifier of the model sees, the most probable first, with percentages; empty
    without one."""
    caption: str = ""
    """Generated caption; empty if none was generated."""
