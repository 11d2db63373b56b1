"""How the words of a row see each other where they are not plainly one caption.

The words of one row read the keys and values of one image, which exist once. So a row may hold
the newest words of several beams, or several captions beside each other; the memory that each
self-attention layer is handed then tells them apart.

Dimensions: B images, H heads, L words of a row, S slots, d size of a head.
"""

from typing import Protocol, runtime_checkable

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@runtime_checkable
class AttentionState(Protocol):
    """Mixes the words of a self-attention layer."""

    def attend(
        self,
        queries: Float[Tensor, "B H L d"],
        keys: Float[Tensor, "B H L d"],
        values: Float[Tensor, "B H L d"],
    ) -> Float[Tensor, "B H L d"]:
        """Gives each word the mixed values of all that it may see."""
        ...


class KeyValueCache:
    """What one self-attention layer has seen, so that a new word costs one row of work.

    An image's captions may branch, as beams do. The prompt and every word of every branch have
    their slots beside each other, written once and never moved; `visible` tells which slots the
    branches of an image see. To go on from another branch is thus a change of the mask alone.
    """

    def __init__(self) -> None:
        self.length = 0
        """Slots in use."""
        self.visible: Float[Tensor, "B 1 L S"] | None = None
        """Added to the scores of later words: 0 where a branch sees a slot, else minus infinity;
        None: each sees all."""
        self._stored: Float[Tensor, "two B H capacity d"] | None = None

    def attend(
        self,
        queries: Float[Tensor, "B H L d"],
        keys: Float[Tensor, "B H L d"],
        values: Float[Tensor, "B H L d"],
    ) -> Float[Tensor, "B H L d"]:
        """Takes in new words and mixes all that each may see.

        The first call takes the prompt, its words one after the other; each later one takes one
        word of each of L branches, to which `visible` applies.
        """
        if self._stored is None:
            self._grow(keys, capacity=2 * keys.shape[2])
            self._write(keys, values)
            return F.scaled_dot_product_attention(
                queries, keys, values, is_causal=keys.shape[2] > 1
            )
        if self.length + keys.shape[2] > self._stored.shape[3]:
            self._grow(keys, capacity=2 * self.length + 8 * keys.shape[2])
        self._write(keys, values)
        keys, values = self._stored[:, :, :, : self.length]
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=self.visible)

    def keep(self, rows: Int[Tensor, " K"]) -> None:
        """Drops all images of the batch but `rows`, in their order."""
        if self._stored is not None:
            self._stored = self._stored[:, rows]

    def _grow(self, like: Float[Tensor, "B H L d"], *, capacity: int) -> None:
        batch, heads, _, size = like.shape
        larger = like.new_empty(2, batch, heads, capacity, size)
        if self._stored is not None:
            larger[:, :, :, : self.length] = self._stored[:, :, :, : self.length]
        self._stored = larger

    def _write(self, keys: Tensor, values: Tensor) -> None:
        assert self._stored is not None
        end = self.length + keys.shape[2]
        self._stored[0, :, :, self.length : end] = keys
        self._stored[1, :, :, self.length : end] = values
        self.length = end


class BlockDiagonalAttention:
    """Whole captions beside each other in a row; none sees another."""

    def __init__(self, captions: int) -> None:
        """Takes the number of captions in a row; all have the same length."""
        self._captions = captions

    def attend(
        self,
        queries: Float[Tensor, "B H L d"],
        keys: Float[Tensor, "B H L d"],
        values: Float[Tensor, "B H L d"],
    ) -> Float[Tensor, "B H L d"]:
        """Mixes each caption on its own."""
        queries, keys, values = (
            rearrange(part, "B H (captions T) d -> (B captions) H T d", captions=self._captions)
            for part in (queries, keys, values)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return rearrange(mixed, "(B captions) H T d -> B H (captions T) d", captions=self._captions)
