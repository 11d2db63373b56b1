"""Batch type: the tensors of one training step.

Dimensions: B batch (of this rank), S image side in pixels, T tokens, C classes.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from coca.data.sample import BadSample
from coca.processing.image import ImageConfig, ImageTransform


@dataclass(frozen=True)
class Batch:
    """The input of one training step on one rank."""

    images: UInt8[Tensor, "B *F 3 S S"] | Float[Tensor, "B *F 3 S S"] | Float[Tensor, "B P width"]
    """Model input, or uint8 pixels while `image_config` is set. F is the number of images of each
    sample; the axis is absent where samples have one image. Or cached features of the image
    encoder, `width` for each of P tokens."""

    tokens: Int[Tensor, "B T"]
    """Token ids in the layout of the tokenizer, padded to the longest row of the batch."""

    keys: tuple[str, ...]
    start: int
    """Global index of the first sample; indices of the batch are consecutive."""

    class_targets: Float[Tensor, "B C"] | None = None
    """1 where the image has the class, or the soft score of an answer (0 to 1). The row of an image
    without classes is zero."""

    bad: tuple[BadSample, ...] = ()
    """Unusable samples that were replaced while this batch was made."""

    image_config: ImageConfig | None = None
    """Normalization that `to` applies to uint8 `images`. Bytes take a quarter of the memory in
    transfers between processes and to a device. None: `images` are normalized already."""

    prompt_lengths: Int[Tensor, " B"] | None = None
    """Number of prompt tokens in each row, including the first token. None: the batch has no
    prompts."""

    is_captioned: Bool[Tensor, " B"] | None = None
    """Whether the text takes part in the captioning loss, by `SourceConfig.keyword_captioning`.
    None: all texts."""

    sources: tuple[str, ...] = ()
    """Name of the source of each sample."""

    def to(self, device: torch.device | str) -> "Batch":
        """Move the images to `device` and normalize them; pinned memory copies are async.

        All else stays on the host, where the model plans the packing of captions: reading lengths
        from a device would wait for all that it computes.
        """
        images = self.images.to(device, non_blocking=True)
        if self.image_config is not None:
            images = ImageTransform(self.image_config).normalize(images)
        return dataclasses.replace(self, images=images, image_config=None)

    def split(self, size: int) -> "list[Batch]":
        """Split the batch into views of at most `size` samples; `bad` is empty in all of them."""
        return [
            Batch(
                images=self.images[first : first + size],
                tokens=self.tokens[first : first + size],
                keys=self.keys[first : first + size],
                start=self.start + first,
                image_config=self.image_config,
                sources=self.sources[first : first + size],
                **self._if_there(lambda tensor, at=first: tensor[at : at + size]),  # type: ignore[misc]
            )
            for first in range(0, len(self.keys), size)
        ]

    def pin_memory(self) -> "Batch":
        """Copy the batch to page-locked memory; `DataLoader` calls this method by name."""
        return dataclasses.replace(
            self,
            images=self.images.pin_memory(),
            tokens=self.tokens.pin_memory(),
            **self._if_there(Tensor.pin_memory),
        )

    def _if_there(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Apply a function to the optional tensors that are present."""
        there = {
            "class_targets": self.class_targets,
            "prompt_lengths": self.prompt_lengths,
            "is_captioned": self.is_captioned,
        }
        return {name: change(tensor) for name, tensor in there.items() if tensor is not None}
