"""Preprocessing of an exported model: `preprocess.json`, images to pixels, texts to token ids.

Results equal `coca.processing.image`, except that Pillow resizes here: its weights have more bits
than torch's, so a few pixels differ by one grey level.

Dimensions: B batch, S side of the model's input (pixels), H, W the image's height and width,
T tokens.
"""

import html
import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from coca.core.errors import ConfigError, ModelError
from coca.core.extras import require
from coca.processing.caption_words import CAPTION_WORDS_FILE, CaptionWords, WordChoice
from coca.processing.image_file import ImageInput, read_image, trim_border
from coca.processing.tokenizer_file import (
    decode_ids,
    encode_text,
    guarded,
    leading_ids,
    read_tokenizer,
    whole,
)
from coca.processing.word_constraint import WordConstraint

MAX_ASPECT_RATIO = 256
"""Largest aspect ratio before an image is cropped; resizing a longer one would exhaust memory."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The image section of `preprocess.json`; see `coca.processing.image.ImageConfig`."""

    image_size: int
    resize: Literal["squash", "crop", "pad", "shortest", "shortest_floor", "within"]
    """`shortest_floor` rounds the corner of the crop down, as transformers does. `within` keeps the
    aspect ratio, and only shrinks images with a side above `image_size`."""
    trim: bool
    mean: tuple[float, float, float]
    """Subtracted inside `vision.onnx`; listed for other programs."""
    std: tuple[float, float, float]
    """Divided by inside `vision.onnx`; listed for other programs."""
    interpolation: Literal["bicubic", "bilinear"]
    reduced: bool
    resampler: Literal["pillow", "torch"] = "pillow"
    """Library whose rounding resized pixels have; exported models have Pillow's."""

    @property
    def at_least(self) -> int | None:
        """Minimum side at which a JPEG may be decoded, in pixels; None: full resolution."""
        return self.image_size if self.reduced else None


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The text section of `preprocess.json`: the layout of token ids."""

    context_length: int
    """Maximum number of tokens in a caption, special tokens included."""
    positions: int
    """Number of positions that the model knows."""
    max_text_tokens: int
    """Maximum number of tokens of prompt and completion, without special tokens."""
    pad_id: int
    bos_id: int
    eos_id: int
    suffix: tuple[int, ...]
    """Ids after the text tokens: [EOS], and [CLS] if the tokenizer adds it."""
    skipped: tuple[int, ...]
    """Special ids that decoding skips."""
    suppressed: tuple[int, ...]
    """Ids that generation never chooses."""
    cleaning: Literal["none", "clip"]
    """`clip`: ftfy, HTML entities and lower case before tokenization."""


@dataclass(frozen=True, kw_only=True)
class TowerText:
    """The tower section of `preprocess.json`: texts of an image-text model of another library."""

    context_length: int
    """Maximum number of tokens in a text, special tokens included."""
    pad_token: str
    padding: Literal["longest", "context"]
    """Whether a text is padded to the longest of its batch, or always to the context length."""
    side: Literal["right", "left"]
    """Side of the padding."""
    cleaning: Literal["none", "whitespace", "clip", "canonicalize"]
    """What is done before tokenization, as OpenCLIP does it, with ftfy and HTML entities:
    `whitespace`, `clip` also in lower case, `canonicalize` also without punctuation."""


def square(source: ImageInput, settings: ImageSettings) -> UInt8[np.ndarray, "3 H W"]:
    """Decode and resize an image to the model's input, a square except with `within`; 0 to 255."""
    image = read_image(source, at_least=settings.at_least)
    if settings.trim:
        image = Image.fromarray(trim_border(np.asarray(image)))
    return np.ascontiguousarray(np.asarray(resized(image, settings)).transpose(2, 0, 1))


def normalize(
    pixels: UInt8[np.ndarray, "B 3 S S"], settings: ImageSettings
) -> Float32[np.ndarray, "B 3 S S"]:
    """Normalize pixels by mean and standard deviation, bit for bit as torch does."""
    mean, std = (np.array(it, np.float32)[:, None, None] for it in (settings.mean, settings.std))
    return (pixels - mean * 255) * (1 / (std * 255))


def resized(image: Image.Image, settings: ImageSettings) -> Image.Image:
    """Resize an image to the model's input by Pillow."""
    side, filter = settings.image_size, Image.Resampling[settings.interpolation.upper()]
    width, height = image.size
    if settings.resize == "within":
        scale = min(1.0, side / max(height, width))
        return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), filter)
    if settings.resize in ("shortest", "shortest_floor"):
        floor = settings.resize == "shortest_floor"
        return resize_shortest(image, side, filter, floor=floor)
    if settings.resize == "pad":
        scale = side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        padded = Image.new("RGB", (side, side), "white")
        padded.paste(image.resize(size, filter), ((side - size[0]) // 2, (side - size[1]) // 2))
        return padded
    if settings.resize == "crop":
        image = _center(image, min(width, height), min(width, height))
    return image.resize((side, side), filter)


def resize_shortest(
    image: Image.Image, side: int, filter: Image.Resampling, *, floor: bool = False
) -> Image.Image:
    """Resize the shorter side, then crop the center, as CLIP does."""
    short = min(image.size)
    if max(image.size) > MAX_ASPECT_RATIO * short:
        cut = MAX_ASPECT_RATIO * short
        image = _center(image, min(image.width, cut), min(image.height, cut))
    size = (side * image.width // short, side * image.height // short)
    rounded: Callable[[float], int] = math.floor if floor else round
    left, top = (rounded((length - side) / 2) for length in size)
    return image.resize(size, filter).crop((left, top, left + side, top + side))


def _center(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class TextTokens:
    """Texts to token ids and back, with the layout of one model."""

    def __init__(self, path: Path, settings: TextSettings) -> None:
        """Load `tokenizer.json`."""
        self.settings, self._folder = settings, path.parent
        self._constraints: dict[WordChoice, WordConstraint] = {}
        self._backend = read_tokenizer(path)
        # Without this, the name of a special token in a text would become that token.
        self._backend.encode_special_tokens = True
        self._clean: Callable[[str], str] = str
        if settings.cleaning == "clip":
            fixed: Callable[[str], str] = require("ftfy", extra="hub").fix_text
            self._clean = lambda text: clean_as_clip(text, fixed)

    @cached_property
    def _caption_words(self) -> CaptionWords | None:
        """Caption words next to the tokenizer, which embeddings of texts do not need."""
        return CaptionWords.load(self._folder / CAPTION_WORDS_FILE)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._backend.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> Int64[np.ndarray, "B T"]:
        """Encode captions, padded to the longest; a longer one keeps its special tokens."""
        layout = self.settings
        room = layout.context_length - 1 - len(layout.suffix)
        rows = [[layout.bos_id, *self.leading_ids(text, room), *layout.suffix] for text in texts]
        ids = np.full((len(rows), max(map(len, rows), default=1)), layout.pad_id, np.int64)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = row
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt for the model to complete: [BOS] and the text tokens."""
        ids = [self.settings.bos_id, *self._text_ids(text)]
        if len(ids) > self.settings.max_text_tokens:
            raise ConfigError(
                f"a prompt of {len(ids)} tokens leaves no room for new tokens in context_length "
                f"{self.settings.positions}; shorten it to {self.settings.max_text_tokens} "
                "tokens at most"
            )
        return ids

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""
        return leading_ids(self._text_ids, text, count)

    def decode(self, ids: Iterable[int]) -> str:
        """Decode the tokens of a caption, without special tokens and spaces at the ends."""
        kept = [id_ for id_ in ids if id_ not in self.settings.skipped]
        return decode_ids(self._backend, kept).strip()

    def word_constraint(self, choice: WordChoice) -> WordConstraint | None:
        """Return the constraint of generation to words of the list; None: no constraint."""
        if self._caption_words is None or choice == "any":
            return None
        if choice not in self._constraints:
            self._constraints[choice] = WordConstraint.of_words(
                self._caption_words.chosen(choice),
                encode=self.leading_ids,
                decode=self.decode,
                eos_id=self.settings.eos_id,
                vocab_size=self.vocab_size,
                nouns=self._caption_words.nouns,
            )
        return self._constraints[choice]

    def _text_ids(self, text: str) -> list[int]:
        return encode_text(self._backend, whole(self._clean(text)))


class TowerTokens:
    """Texts to token ids by a `tokenizer.json` of another library.

    The file is run as that library runs it: it adds special tokens, and their names in a text
    become these tokens.
    """

    def __init__(self, path: Path, settings: TowerText) -> None:
        """Load a `tokenizer.json`."""
        self.settings, self._clean = settings, _cleaner(settings.cleaning)
        self._backend = guarded(
            lambda: tokenizers.Tokenizer.from_file(str(path)), f"{path} is not a tokenizer.json"
        )
        self._backend.no_padding()
        self._backend.no_truncation()
        self._pad_id = self._backend.token_to_id(settings.pad_token)
        if self._pad_id is None:
            raise ModelError(f"{path} lacks the padding token {settings.pad_token!r}")

    @property
    def max_text_tokens(self) -> int:
        """Maximum number of tokens in a text, without special tokens."""
        return self.settings.context_length - self._backend.num_special_tokens_to_add(False)

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""
        return leading_ids(lambda part: self._encoded(part).ids, text, count)

    def encode(
        self, texts: Sequence[str]
    ) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B T"]]:
        """Encode texts, padded; a longer text keeps its special tokens.

        Returns:
            Token ids, and a mask that is 1 for tokens and 0 for padding.
        """
        rows = []
        for text in texts:
            encoding = self._encoded(text)
            encoding.truncate(self.max_text_tokens)
            rows.append(self._backend.post_process(encoding).ids)
        is_fixed = self.settings.padding == "context"
        length = self.settings.context_length if is_fixed else max(map(len, rows), default=1)
        ids = np.full((len(rows), length), self._pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, found in enumerate(rows):
            start = length - len(found) if self.settings.side == "left" else 0
            ids[row, start : start + len(found)] = found
            mask[row, start : start + len(found)] = 1
        return ids, mask

    def _encoded(self, text: str) -> tokenizers.Encoding:
        """Clean and encode a text, without special tokens around it."""
        return guarded(
            lambda: self._backend.encode(self._clean(text), add_special_tokens=False),
            "the model's tokenizer cannot encode {!r}",
            text,
        )


def clean_as_clip(text: str, fixed: Callable[[str], str]) -> str:
    """Clean a text with the steps of CLIP, in their order; `fixed` is ftfy's `fix_text`."""
    return _repaired(text, fixed).lower()


def _repaired(text: str, fixed: Callable[[str], str]) -> str:
    # Skip ftfy for plain ASCII, which is most captions: it takes longer than all other steps.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = html.unescape(html.unescape(fixed(text)))
    return " ".join(text.split())


def _cleaner(cleaning: str) -> Callable[[str], str]:
    """Return the function of `TowerText.cleaning`."""
    if cleaning == "none":
        return str
    fixed: Callable[[str], str] = require("ftfy", extra="hub").fix_text
    if cleaning == "whitespace":
        return lambda text: _repaired(text, fixed)
    if cleaning == "clip":
        return lambda text: clean_as_clip(text, fixed)
    return lambda text: " ".join(
        clean_as_clip(text, fixed).replace("_", " ").translate(_PUNCTUATION).split()
    )


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def settings_from(
    content: Any, where: Path
) -> tuple[ImageSettings, TextSettings | None, TowerText | None]:
    """Build all sections from the content of `preprocess.json`; at least one is of texts."""
    try:
        image, text, tower = content["image"], content.get("text"), content.get("tower")
        if text is None and tower is None:
            raise KeyError("text")
        tuples = {name: tuple(image[name]) for name in ("mean", "std")}
        if text is not None:
            ids = {name: tuple(text[name]) for name in ("suffix", "skipped", "suppressed")}
            text = TextSettings(**{**text, **ids})
        return (
            ImageSettings(**{**image, **tuples}),
            text,
            None if tower is None else TowerText(**tower),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"{where} does not describe the inputs of a model: {error}") from None


MAX_SIDE = 1024
"""Longest side of an image, in pixels, that is passed to a library that resizes it; the libraries'
models read fewer, and batches of photos at full size would exhaust memory."""


def unresized() -> ImageSettings:
    """Return the settings of a model whose library prepares images itself."""
    return ImageSettings(
        image_size=MAX_SIDE,
        resize="within",
        trim=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation="bicubic",
        reduced=False,
    )


def openclip_settings(preprocess: Mapping[str, Any], folder: Path) -> ImageSettings:
    """Read a `preprocess_cfg` of OpenCLIP."""
    size, resize = preprocess["size"], preprocess.get("resize_mode", "shortest")
    width, height = (size, size) if isinstance(size, int) else size
    if width != height or resize not in ("shortest", "squash"):
        raise ModelError(
            f"{folder} needs images of {width} x {height} px resized by {resize!r}; supported are "
            "squares by 'shortest' or 'squash'"
        )
    return ImageSettings(
        image_size=width,
        resize=resize,
        trim=False,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
        reduced=False,
    )
