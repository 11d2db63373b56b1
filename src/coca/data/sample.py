"""What flows through this room: a pair of image and words, and a batch of tensors.

Axes: B batch (of this rank), S image side in pixels, T tokens, C classes.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from coca.core.errors import DataError
from coca.processing.image import ImageConfig, ImageTransform


@dataclass(frozen=True)
class Sample:
    """An image, still encoded, with the words that belong to it."""

    key: str
    """Names the sample within its source."""

    image: bytes = field(repr=False)
    """The image as a file holds it: JPEG, PNG, WebP, ..."""

    captions: tuple[str, ...] = ()
    """Sentences that each describe the whole image."""

    labels: tuple[str, ...] = ()
    """Names of what the image shows or what is right of it: a class, an action, a verdict."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is known; values that JSON can hold."""

    text: str = ""
    """What is asked or claimed of the image: a question, a hypothesis, a sentence."""

    answers: tuple[str, ...] = ()
    """What people answered, as often as they said it."""

    others: tuple[bytes, ...] = field(default=(), repr=False)
    """Further images of the sample, in order: the second of a pair, later frames of a video."""

    @property
    def images(self) -> tuple[bytes, ...]:
        """All images of the sample, still encoded; one unless there are `others`."""
        return (self.image, *self.others)


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, and why."""

    key: str
    source: str
    row: int
    """Its place in the source, which stays the same as long as the fingerprint does."""

    reason: str
    """A short slug to count by, such as `"truncated"` or `"empty_caption"`."""

    detail: str
    """The whole sentence."""


@dataclass(frozen=True)
class Batch:
    """What one training step of one rank reads."""

    images: UInt8[Tensor, "B *F 3 S S"] | Float[Tensor, "B *F 3 S S"]
    """What the model reads; bytes on the way to it, see `image_config`. Where samples have several
    images, there is an axis for them."""

    tokens: Int[Tensor, "B T"]
    """Captions as the tokenizer lays them out, padded to the longest of this batch."""

    keys: tuple[str, ...]
    start: int
    """Global index of the first sample; the others follow it one by one."""

    class_targets: Float[Tensor, "B C"] | None = None
    """1 where the image shows the class, or what an answer is worth; a row of zeros for an image
    without any."""

    bad: tuple[BadSample, ...] = ()
    """Samples that were replaced on the way to this batch."""

    image_config: ImageConfig | None = None
    """How `to` makes the model's input from `images`, which are bytes until then: a quarter of the
    memory to pass between processes and to a device. None: they are that input."""

    prompt_lengths: Int[Tensor, " B"] | None = None
    """Tokens of each row, the first one included, that are asked and not answered. None: nothing
    is asked."""

    def to(self, device: torch.device | str) -> "Batch":
        """The batch ready on `device`; pinned memory is copied while the host works on."""
        images = self.images.to(device, non_blocking=True)
        if self.image_config is not None:
            images = ImageTransform(self.image_config).normalize(images)
        return dataclasses.replace(
            self,
            images=images,
            image_config=None,
            tokens=self.tokens.to(device, non_blocking=True),
            **self._if_there(lambda tensor: tensor.to(device, non_blocking=True)),
        )

    def split(self, size: int) -> "list[Batch]":
        """Parts of at most `size` pairs, in order, as views; none of them names bad samples."""
        return [
            Batch(
                images=self.images[first : first + size],
                tokens=self.tokens[first : first + size],
                keys=self.keys[first : first + size],
                start=self.start + first,
                image_config=self.image_config,
                **self._if_there(lambda tensor, at=first: tensor[at : at + size]),  # type: ignore[misc]
            )
            for first in range(0, len(self.keys), size)
        ]

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; torch's loader calls this by its name."""
        return dataclasses.replace(
            self,
            images=self.images.pin_memory(),
            tokens=self.tokens.pin_memory(),
            **self._if_there(Tensor.pin_memory),
        )

    def _if_there(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The tensors that not every batch has, changed."""
        there = {"class_targets": self.class_targets, "prompt_lengths": self.prompt_lengths}
        return {name: change(tensor) for name, tensor in there.items() if tensor is not None}


def parse_text(content: bytes, name: str) -> str:
    """The text of a file; `name` is what errors call it.

    Raises:
        DataError: It is not UTF-8 (reason `"bad_text"`).
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error}", reason="bad_text") from error


def parse_record(content: bytes | str, name: str) -> dict[str, Any]:
    """The JSON object of a sidecar or line; `name` is what errors call it.

    NaN, Infinity and what is beyond the range of a float, which JSON itself does not know, is null.

    Raises:
        DataError: It is no JSON, or another thing than an object (reason `"bad_record"`).
    """
    try:
        record = json.loads(content, parse_constant=_nothing, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is no JSON: {error}", reason="bad_record") from error
    if not isinstance(record, dict):
        raise DataError(
            f"{name} holds {record!r:.40}; right is an object in braces", reason="bad_record"
        )
    return record


def _nothing(constant: str) -> None:
    return None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def split_record(
    record: Mapping[str, Any],
    origin: str,
    *,
    caption_names: tuple[str, ...] = ("captions", "caption"),
    label_names: tuple[str, ...] = ("labels", "label"),
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    """Part a record, such as a JSON sidecar or a row of a table, into what a `Sample` holds.

    Args:
        record: Names to values.
        origin: What errors call the record.
        caption_names: Where captions may stand; the first name that holds any wins.
        label_names: Where labels may stand, likewise.

    Returns:
        Captions, labels, and the rest as metadata.

    Raises:
        DataError: A caption or label is not text (reason `"bad_record"`).
    """
    captions = first_texts(record, origin, caption_names)
    labels = first_texts(record, origin, label_names)
    named = {*caption_names, *label_names}
    return captions, labels, {name: record[name] for name in record if name not in named}


def first_texts(record: Mapping[str, Any], origin: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The text or texts under the first of `names` that holds any; `origin` is what errors call it.

    Raises:
        DataError: Another thing than texts stands there (reason `"bad_record"`).
    """
    for name in names:
        value = record.get(name)
        if value is None or value in ("", [], ()):
            continue
        # Whole numbers occur as labels: the number of the class.
        texts = [value] if isinstance(value, str | int) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str | int) for t in texts):
            raise DataError(
                f"{name!r} of {origin} holds {value!r:.80}; right is a text or a list of texts",
                reason="bad_record",
            )
        return tuple(str(text) for text in texts)
    return ()
