"""Incremental decoding with KV caches over the exported graphs.

The counterpart of `coca.model.generation.decoder_state`: the branches of an image are one row, and
the attention mask separates them.

Dimensions: B images, K branches an image, k branches before the step, S slots of the caches,
L new tokens, Q image tokens, C their width, H heads, d size of a head, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64

from coca.predict.manifest import Manifest, cache_names, cross_names

Array: TypeAlias = np.ndarray


@runtime_checkable
class Session(Protocol):
    """The interface of `onnxruntime.InferenceSession`."""

    def run(self, output_names: Sequence[str] | None, inputs: dict[str, Array]) -> list[Any]:
        """Compute the outputs of a graph."""
        ...


class OnnxDecoder:
    """The graphs `cross` and `decoder` of one model."""

    def __init__(self, cross: Session, step: Session, manifest: Manifest) -> None:
        self._cross, self._step, self.manifest = cross, step, manifest
        self._cross_names = cross_names(manifest.multimodal_layers)
        self._past_names = cache_names("past_key_values", manifest.layers)

    def read_image(self, image_tokens: Float32[np.ndarray, "B Q C"]) -> list[Array]:
        """Project image tokens to keys and values of all layers; once per image."""
        return self._cross.run(self._cross_names, {"image_tokens": image_tokens})

    def no_cache(self, batch: int) -> list[Array]:
        """Return empty caches for a batch."""
        size = (batch, self.manifest.heads, 0, self.manifest.head_size)
        return [np.zeros(size, np.float32) for _ in self._past_names]

    def step(
        self,
        tokens: Int64[np.ndarray, "B L"],
        positions: Int64[np.ndarray, "B L"],
        mask: Bool[np.ndarray, "B L S"],
        image: Sequence[Array],
        past: Sequence[Array],
    ) -> tuple[Float32[np.ndarray, "B L V"], list[Array]]:
        """Compute the next-token logits of new tokens, and the caches that include them."""
        inputs = {
            "input_ids": tokens,
            "position_ids": positions,
            "attention_mask": mask,
            **dict(zip(self._cross_names, image, strict=True)),
            **dict(zip(self._past_names, past, strict=True)),
        }
        logits, *caches = self._step.run(None, inputs)
        return logits, caches


class OnnxDecoderState:
    """KV caches and next-token logits of the captions of a batch of images."""

    logits: Float32[np.ndarray, "B K V"]
    """Next-token logits of each branch."""

    def __init__(
        self,
        decoder: OnnxDecoder,
        image_tokens: Float32[np.ndarray, "B Q C"],
        prompts: Sequence[Sequence[int]],
        *,
        pad_id: int,
        max_position: int,
    ) -> None:
        """Prefill the caches with images and prompts."""
        self._decoder, self._max_position = decoder, max_position
        self._image: list[Array] = decoder.read_image(image_tokens)
        lengths = np.array([len(prompt) for prompt in prompts])
        batch, longest = len(prompts), int(lengths.max())
        tokens = np.full((batch, longest), pad_id, np.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        columns = np.arange(longest)
        causal = np.broadcast_to(np.tri(longest, dtype=bool), (batch, longest, longest))
        positions = np.broadcast_to(columns, tokens.shape)
        logits, self._past = decoder.step(
            tokens,
            np.ascontiguousarray(positions),
            np.ascontiguousarray(causal),
            self._image,
            decoder.no_cache(batch),
        )
        self._positions = lengths[:, None]
        self._visible = (columns < self._positions)[:, None]
        self.logits = logits[np.arange(batch), lengths - 1][:, None]

    def step(self, tokens: Int64[np.ndarray, "B K"], parents: Int64[np.ndarray, "B K"]) -> None:
        """Append a token to each branch and update `logits`."""
        batch, branches = tokens.shape
        visible = np.take_along_axis(self._visible, parents[:, :, None], axis=1)
        own = np.broadcast_to(np.eye(branches, dtype=bool), (batch, branches, branches))
        self._visible = np.concatenate([visible, own], axis=2)
        positions = np.minimum(self._positions, self._max_position)
        self.logits, self._past = self._decoder.step(
            tokens,
            np.repeat(positions, branches, axis=1),
            self._visible,
            self._image,
            self._past,
        )
        self._positions = self._positions + 1

    def keep(self, rows: Int64[np.ndarray, " b"]) -> None:
        """Keep these images only; call `step` next."""
        self._image = [part[rows] for part in self._image]
        self._past = [part[rows] for part in self._past]
        self._positions, self._visible = self._positions[rows], self._visible[rows]
