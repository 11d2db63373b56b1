"""KV cache and attention state for incremental decoding.

All tokens of a row attend to the keys and values of one image, which are stored once. So a row may
contain the newest tokens of several beams, or several captions. The attention state of each
self-attention layer then separates them.

Dimensions: B images, H heads, L tokens of a row, S slots, d size of a head.
"""

from typing import Protocol, runtime_checkable

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@runtime_checkable
class AttentionState(Protocol):
    """Replaces plain causal attention in a self-attention layer."""

    def attend(
        self,
        queries: Float[Tensor, "B H L d"],
        keys: Float[Tensor, "B H L d"],
        values: Float[Tensor, "B H L d"],
    ) -> Float[Tensor, "B H L d"]:
        """Compute the attention output of each token over all tokens visible to it."""
        ...


class KeyValueCache:
    """KV cache of one self-attention layer, for a tree of branches per image.

    The captions of an image may branch, as beams do. The prompt and every token of every branch
    have one slot each, which is written once and never moved. The mask `visible` selects the slots
    of each branch. So continuing from another beam changes the mask and copies no keys or values.
    """

    def __init__(self) -> None:
        self.length = 0
        """Number of slots in use."""
        self.visible: Float[Tensor, "B 1 L S"] | None = None
        """Additive mask for the next tokens: 0 if a slot is visible to a branch, else minus
        infinity. None: all slots are visible."""
        self._stored: Float[Tensor, "two B H capacity d"] | None = None

    def attend(
        self,
        queries: Float[Tensor, "B H L d"],
        keys: Float[Tensor, "B H L d"],
        values: Float[Tensor, "B H L d"],
    ) -> Float[Tensor, "B H L d"]:
        """Append keys and values to the cache and compute the attention output.

        The first call takes the L tokens of the prompt. Each later call takes one token of each of
        L branches, with the mask `visible`.
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

    def reorder(self, rows: Int[Tensor, " K"]) -> None:
        """Select images of the batch: keep `rows` only, in this order."""
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
    """Causal attention within each of several captions in a row."""

    def __init__(self, captions: int) -> None:
        """Set the number of captions in a row; all have the same length."""
        self._captions = captions

    def attend(
        self,
        queries: Float[Tensor, "B H L d"],
        keys: Float[Tensor, "B H L d"],
        values: Float[Tensor, "B H L d"],
    ) -> Float[Tensor, "B H L d"]:
        """Compute causal attention within each caption."""
        queries, keys, values = (
            rearrange(part, "B H (captions T) d -> (B captions) H T d", captions=self._captions)
            for part in (queries, keys, values)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return rearrange(mixed, "(B captions) H T d -> B H (captions T) d", captions=self._captions)
