"""The door between a model and the world: images and captions to tensors, kept in its folder.

Axis letters: B batch, S side of the model's input (pixels), T tokens.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from coca.core.config import from_dict, to_dict
from coca.core.errors import ConfigError, ModelError
from coca.core.files import read_json, write_atomic
from coca.processing.clip_bpe import ClipTokenizer
from coca.processing.image import ImageConfig, ImageSource, ImageTransform, expect_many
from coca.processing.tokenizer import MIN_CONTEXT_LENGTH, TextTokenizer, Tokenizer, read_backend

FORMAT_VERSION = 1
"""Raised when an older release could misread what this one writes."""

_MANY = 32
"""Pictures at once that tell of many more to come."""

PROCESSOR_FILE, TOKENIZER_FILE = "processor.json", "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """What `processor.json` holds."""

    version: int
    image: ImageConfig
    context_length: int


class Processor:
    """Turns images and captions into what one model reads."""

    def __init__(
        self, image: ImageTransform, tokenizer: TextTokenizer, context_length: int
    ) -> None:
        """Join the parts.

        Args:
            image: How images are prepared.
            tokenizer: How captions are written.
            context_length: Largest number of tokens in a caption, special ones included.

        Raises:
            ConfigError: `context_length` leaves no room for a word.
        """
        if context_length < MIN_CONTEXT_LENGTH:
            raise ConfigError(
                f"context_length is {context_length}; it must be at least {MIN_CONTEXT_LENGTH}"
            )
        self.image = image
        self.tokenizer = tokenizer
        self.context_length = context_length

    @property
    def image_config(self) -> ImageConfig:
        """What the model expects of its images."""
        return self.image.config

    def images(self, sources: Sequence[ImageSource]) -> Float[Tensor, "B 3 S S"]:
        """Pictures to the model's input.

        Raises:
            DataError: One of them cannot be used; the message names it.
        """
        many, side = len(sources) >= _MANY, self.image_config.image_size
        if many:
            expect_many()
        squares = torch.empty(len(sources), 3, side, side, dtype=torch.uint8)

        def read(place: int) -> None:
            square = self.image.square(self.image.read(sources[place]))
            # By NumPy: torch would start threads of its own for each copy.
            squares[place].numpy()[:] = square.numpy()

        # Decoding leaves the interpreter free, so threads do what processes would. A PIL image may
        # stand there twice, and loads its pixels when it is first asked.
        opened = any(isinstance(source, Image.Image) for source in sources)
        with ThreadPoolExecutor(os.cpu_count() if many and not opened else 1) as readers:
            for _ in readers.map(read, range(len(sources))):
                pass
        return self.image.normalize(squares)

    def image_batches(
        self, batches: Iterable[Sequence[ImageSource]]
    ) -> Iterator[Float[Tensor, "B 3 S S"]]:
        """As `images` for each batch; the next one is read while the caller uses this one.

        Raises:
            DataError: An image cannot be used; batches before its own have been given by then.
        """
        # One batch ahead is enough: where reading is the limit, it has the cores to itself.
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead: Future[Tensor] | None = None
            for batch in batches:
                current, ahead = ahead, reader.submit(self.images, batch)
                if current is not None:
                    yield current.result()
            if ahead is not None:
                yield ahead.result()

    def texts(self, texts: Sequence[str]) -> Int64[Tensor, "B T"]:
        """Captions to the model's input; see `Tokenizer.encode`."""
        return self.tokenizer.encode(texts, context_length=self.context_length)

    def answered(
        self, questions: Sequence[str], answers: Sequence[str]
    ) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
        """Questions, each with its answer behind it, and how many tokens are asked.

        The words of both are cut apart from each other, so that a question is written alike with
        any answer and without one. The first token of each row counts as asked. Where both are too
        long for the context, the end is lost.
        """
        asked = [self.tokenizer.encode_prompt(question) for question in questions]
        rows = [
            [*question[1:], *self.tokenizer.encode_prompt(answer)[1:]]
            for question, answer in zip(asked, answers, strict=True)
        ]
        tokens = self.tokenizer.format_ids(rows, context_length=self.context_length)
        room = self.context_length - self.tokenizer.reserved + 1
        lengths = [min(len(question), room) for question in asked]
        return tokens, torch.tensor(lengths, dtype=torch.int64)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `processor.json` into a folder."""
        saved = _Saved(
            version=FORMAT_VERSION, image=self.image_config, context_length=self.context_length
        )
        self.tokenizer.save(Path(folder) / TOKENIZER_FILE)
        text = json.dumps(to_dict(saved), indent=2) + "\n"
        write_atomic(Path(folder) / PROCESSOR_FILE, text.encode())

    @classmethod
    def load(cls, folder: str | Path) -> "Processor":
        """Read what `save` wrote.

        Raises:
            ModelError: A file is missing, damaged, or of another version.
        """
        path = Path(folder) / PROCESSOR_FILE
        state = _read(path)
        # First, since a later format may well have other fields.
        if state.get("version") != FORMAT_VERSION:
            raise ModelError(
                f"{path} has format version {state.get('version')!r}; this release reads "
                f"{FORMAT_VERSION}"
            )
        try:
            saved = from_dict(_Saved, state, source=str(path))
            tokenizer = load_tokenizer(Path(folder) / TOKENIZER_FILE)
            return cls(ImageTransform(saved.image), tokenizer, saved.context_length)
        except ConfigError as error:
            raise ModelError(f"{path} does not fit: {error}") from error


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Read a `tokenizer.json` with a vocabulary of ours or of CLIP.

    Raises:
        ModelError: The file is missing or damaged, or its vocabulary is of another kind.
        MissingExtraError: It is CLIP's, and ftfy is not installed.
    """
    backend = read_backend(path)
    kind = ClipTokenizer if backend.id_to_token(0) == "!" else Tokenizer
    try:
        return kind(backend)
    except ModelError as error:
        raise ModelError(f"{path} does not fit: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        state = read_json(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path} must hold one JSON object")
    return state
