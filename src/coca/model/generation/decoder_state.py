"""Decoder state for incremental decoding: one new token per branch and step, with KV caches.

The branches of an image are beams or samples. They share the image's keys and values, which are
computed once. A step places the newest token of each branch in one row, so that one cross-attention
call serves all branches.

Dimensions: B images, K branches an image, k branches before the step, S slots of the caches,
T tokens of the longest prompt, V vocabulary.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coca.model.coca import CoCa
from coca.model.layers.kv_cache import KeyValueCache
from coca.model.layers.prepacked import linear


class DecoderState:
    """KV caches and next-token logits of the captions of a batch of images."""

    def __init__(
        self,
        model: CoCa,
        image_tokens: Float[Tensor, "B Q C"],
        prompts: Sequence[Sequence[int]],
    ) -> None:
        """Prefill the caches with images and prompts."""
        text, device = model.config.text, image_tokens.device
        self._model = model
        # Read at every step, so a contiguous copy pays off.
        self._image = [
            (keys.contiguous(), values.contiguous())
            for keys, values in model.multimodal_decoder.read_image(image_tokens)
        ]
        self._unimodal_caches = [KeyValueCache() for _ in range(text.unimodal_layers)]
        self._multimodal_caches = [KeyValueCache() for _ in range(text.multimodal_layers)]
        lengths = [len(prompt) for prompt in prompts]
        tokens = torch.tensor(
            [[*prompt, *[text.pad_id] * (max(lengths) - len(prompt))] for prompt in prompts],
            device=device,
        )
        states = model.unimodal_decoder(tokens, caches=self._unimodal_caches)
        states = model.multimodal_decoder(states, self._image, caches=self._multimodal_caches)
        self._positions = torch.tensor(lengths, device=device)[:, None]
        # Padding follows a shorter prompt. Causality hides it from the prompt's tokens; later
        # tokens need a mask.
        own = torch.arange(max(lengths), device=device) < self._positions
        self._visible = None if bool(own.all()) else own[:, None]
        rows = torch.arange(len(states), device=device)
        last = states[rows, self._positions[:, 0] - 1]
        self.logits = self._to_logits(last[:, None])

    logits: Float[Tensor, "B K V"]
    """Next-token logits of each branch, in fp32; the caller may modify them in place."""

    def step(self, tokens: Int[Tensor, "B K"], parents: Int[Tensor, "B K"] | None = None) -> None:
        """Append a token to each branch and update `logits`."""
        self._update_visibility(tokens, parents)
        # A finished image may exceed the context until it is dropped.
        positions = self._positions.clamp(max=self._model.config.text.context_length - 1)
        states = self._model.unimodal_decoder(
            tokens, caches=self._unimodal_caches, positions=positions.expand(tokens.shape)
        )
        states = self._model.multimodal_decoder(states, self._image, caches=self._multimodal_caches)
        self._positions = self._positions + 1
        self.logits = self._to_logits(states)

    def reorder(self, rows: Int[Tensor, " b"]) -> None:
        """Select images: keep `rows` only, in this order; call `step` next."""
        self._image = [(keys[rows], values[rows]) for keys, values in self._image]
        for cache in (*self._unimodal_caches, *self._multimodal_caches):
            cache.reorder(rows)
        self._positions = self._positions[rows]
        if self._visible is not None:
            self._visible = self._visible[rows]

    def _update_visibility(
        self, tokens: Int[Tensor, "B K"], parents: Int[Tensor, "B k"] | None
    ) -> None:
        """Update the caches' masks: a new token sees its parent's slots and its own slot."""
        batch, branches = tokens.shape
        if self._visible is None and branches == 1:
            return
        slots = self._unimodal_caches[0].length
        visible = self._visible
        if visible is None:
            visible = torch.ones(batch, 1, slots, dtype=torch.bool, device=tokens.device)
        if parents is not None:
            visible = visible.gather(1, parents[:, :, None].expand(-1, -1, slots))
        own = torch.eye(branches, dtype=torch.bool, device=tokens.device)
        self._visible = torch.cat([visible, own.expand(batch, -1, -1)], dim=2)
        hidden = torch.zeros(
            self._visible.shape, dtype=self._model.log_scale.dtype, device=tokens.device
        ).masked_fill_(~self._visible, -torch.inf)[:, None]
        for cache in (*self._unimodal_caches, *self._multimodal_caches):
            cache.visible = hidden

    def _to_logits(self, states: Float[Tensor, "B K D"]) -> Float[Tensor, "B K V"]:
        return linear(states, self._model.vocabulary_weight).float()


def should_compact(going: Bool[Tensor, " B"]) -> bool:
    """Return whether at least a quarter of the images are finished.

    Only then is it worth dropping them, since that copies the caches of all others.
    """
    return 4 * int(going.sum()) <= 3 * len(going)
