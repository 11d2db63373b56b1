"""Captions to token ids and back, in the one layout that the model reads.

    [BOS] w1 .. wn [EOS] [CLS] [PAD] ..          ids 1, words, 2, 3, 0 ..

Words are cut into pieces of bytes, so that any text at all can be written; a vocabulary is learned
from the captions themselves. Axis letters: B batch, T tokens.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import tokenizers
import torch
from jaxtyping import Int64
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from coca.core.errors import ConfigError, DataError, ModelError
from coca.core.files import write_atomic

PAD_ID, BOS_ID, EOS_ID, CLS_ID = range(4)
SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[EOS]", "[CLS]")
"""Names of ids 0 to 3; where a caption holds such a name, it is plain text."""

MIN_CONTEXT_LENGTH = 4
"""[BOS], one piece of a word, [EOS], [CLS]."""

# 4 special tokens and 256 bytes; a vocabulary must hold at least one learned piece besides.
_UNLEARNED = 260


@runtime_checkable
class TextTokenizer(Protocol):
    """What a processor asks of a tokenizer: the model's layout of ids, and words from them."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def bos_id(self) -> int:
        """Begins each caption."""
        ...

    @property
    def eos_id(self) -> int:
        """Ends the words of each caption."""
        ...

    def encode(self, texts: Sequence[str], *, context_length: int) -> Int64[Tensor, "B T"]:
        """Captions to ids, padded to the longest and cut at `context_length`."""
        ...

    @property
    def reserved(self) -> int:
        """Ids of a caption that are no words."""
        ...

    def format_ids(
        self, rows: Sequence[Sequence[int]], *, context_length: int
    ) -> Int64[Tensor, "B T"]:
        """Ids of words to captions, padded to the longest and cut at `context_length`."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """The beginning of a caption, for the model to go on: its first id and the words."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a caption up to its end."""
        ...

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`."""
        ...


class Tokenizer:
    """Text to token ids by a learned vocabulary, and back.

    Text is normalised first (Unicode NFC, by default lower case, no blanks at the ends); apart
    from that, decoding gives back what was encoded.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a tokenizer of the `tokenizers` package.

        Raises:
            ModelError: Ids 0 to 3 are not the special tokens.
        """
        for id_, token in enumerate(SPECIAL_TOKENS):
            found = backend.id_to_token(id_)
            if found != token:
                raise ModelError(f"id {id_} of the tokenizer is {found!r}; it must be {token!r}")
        # Without this, a caption could end itself by holding "[EOS]".
        backend.encode_special_tokens = True
        self._backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        # The backend's own pickling forgets `encode_special_tokens`.
        return Tokenizer._from_json, (self._backend.to_str(),)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        kind: Literal["bpe", "unigram"] = "bpe",
        lowercase: bool = True,
    ) -> "Tokenizer":
        """Learn a vocabulary; the same texts give the same one, bit for bit.

        Args:
            texts: Captions, read once.
            vocab_size: Largest number of ids, the 4 special ones and the 256 bytes included. Fewer
                come out if the texts hold too few different pieces.
            kind: `"bpe"` joins the most frequent neighbours; `"unigram"` keeps the likeliest
                pieces, as SentencePiece does.
            lowercase: Read capital letters as small ones.

        Raises:
            ConfigError: `vocab_size` leaves nothing to learn.
            DataError: There is no text, or it holds half a surrogate pair.
        """
        if vocab_size <= _UNLEARNED:
            raise ConfigError(
                f"vocab_size is {vocab_size}; it must be above {_UNLEARNED}, which the special "
                "tokens and the single bytes take"
            )
        backend = tokenizers.Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
        steps = [normalizers.NFC(), normalizers.Strip()]
        if lowercase:
            # Before NFC, since a small letter may have a composed form where the capital has none.
            steps.insert(0, normalizers.Lowercase())
        backend.normalizer = normalizers.Sequence(steps)
        # A blank goes with the word behind it; one is put before the first word as well, so that
        # "car" is the same piece at the beginning and within a caption.
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        make = trainers.BpeTrainer if kind == "bpe" else trainers.UnigramTrainer
        trainer = make(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        checked = map(whole, texts)
        first = next(checked, None)
        if first is None:
            raise DataError("there is no text to learn a vocabulary from", reason="empty")
        backend.train_from_iterator(chain([first], checked), trainer)
        if kind == "unigram":
            backend = _in_a_fixed_order(backend)
        return cls(backend)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._backend.get_vocab_size()

    @property
    def bos_id(self) -> int:
        """Begins each caption."""
        return BOS_ID

    @property
    def eos_id(self) -> int:
        """Ends the words of each caption."""
        return EOS_ID

    def normalize(self, text: str) -> str:
        """The text as `decode` gives it back."""
        normalizer = self._backend.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def encode(self, texts: Sequence[str], *, context_length: int) -> Int64[Tensor, "B T"]:
        """Captions to ids, padded to the longest, rounded up to a multiple of 8.

        A caption that is too long loses its end but keeps [EOS] and [CLS].

        Args:
            texts: Captions; an empty one has no words between [BOS] and [EOS].
            context_length: Largest T, special tokens included; at least 4.

        Raises:
            ConfigError: `context_length` leaves no room for a word.
            DataError: A text holds half a surrogate pair.
        """
        if context_length < MIN_CONTEXT_LENGTH:
            raise ConfigError(
                f"context_length is {context_length}; it must be at least {MIN_CONTEXT_LENGTH}"
            )
        return self.format_ids([self._words(text) for text in texts], context_length=context_length)

    @property
    def reserved(self) -> int:
        """Ids of a caption that are no words: [BOS], [EOS] and [CLS]."""
        return 3

    def format_ids(
        self, rows: Sequence[Sequence[int]], *, context_length: int
    ) -> Int64[Tensor, "B T"]:
        """Ids of words to captions, as `encode` does it behind cutting texts into pieces."""
        room = context_length - self.reserved
        return padded([[BOS_ID, *row[:room], EOS_ID, CLS_ID] for row in rows], context_length)

    def encode_prompt(self, text: str) -> list[int]:
        """The beginning of a caption, for the model to go on: [BOS] and the words.

        Raises:
            DataError: The text holds half a surrogate pair.
        """
        return [BOS_ID, *self._words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a caption up to its first [EOS]; special tokens are left out.

        Bytes that are no UTF-8 become U+FFFD. Ids above the vocabulary are left out, since a
        model may have more rows than there are pieces.
        """
        words = []
        for id_ in ids:
            if id_ == EOS_ID:
                break
            if id_ > CLS_ID:
                words.append(int(id_))
        text = self._backend.decode(words, skip_special_tokens=False)
        return text.removeprefix(" ")

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`, a format that other libraries read as well."""
        write_atomic(path, self._backend.to_str(pretty=True).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what `save` wrote.

        Raises:
            ModelError: The file is missing or damaged, or its special tokens are others.
        """
        backend = read_backend(path)
        try:
            return cls(backend)
        except ModelError as error:
            raise ModelError(f"{path} does not fit: {error}") from error

    @classmethod
    def _from_json(cls, text: str) -> "Tokenizer":
        return cls(tokenizers.Tokenizer.from_str(text))

    def _words(self, text: str) -> list[int]:
        # One by one: a batch would start threads of its own in every worker process.
        return self._backend.encode(whole(text), add_special_tokens=False).ids


def read_backend(path: str | Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`, whatever its vocabulary.

    Raises:
        ModelError: The file is missing or damaged.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the tokenizer {path} cannot be read: {error}") from error
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        # The backend raises bare exceptions.
        raise ModelError(f"{path} is no tokenizer.json: {error}") from error


def padded(rows: Sequence[Sequence[int]], context_length: int) -> Int64[Tensor, "B T"]:
    """Rows of ids as one batch, filled up with id 0; none is longer than `context_length`."""
    longest = max((len(row) for row in rows), default=1)
    # Few different lengths, so that compiled graphs repeat.
    width = min(-(-longest // 8) * 8, context_length)
    ids = np.full((len(rows), width), PAD_ID, dtype=np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(ids)


def whole(text: str) -> str:
    """The text itself, if it is one that can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text {text[max(0, error.start - 20) : error.start + 20]!r} holds half a "
            "surrogate pair, which stands for no character; repair how it was read",
            reason="bad_text",
        ) from error
    return text


def _in_a_fixed_order(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Undo the chance in a freshly trained unigram vocabulary.

    The trainer walks through hash tables in an order that differs from run to run. It shows in the
    last digits of the scores, in the order of equal ones, and in the single bytes that were too
    rare to be scored: those get the lowest score plus 0, 0.0001, 0.0002 and so on as they come.
    """
    state = json.loads(backend.to_str())
    special, pieces = state["model"]["vocab"][:4], state["model"]["vocab"][4:]
    lowest = min(score for _, score in pieces)
    unscored = lowest + 0.0001 * 256
    fixed = [
        (piece, round(lowest if len(piece) == 1 and score < unscored else score, 6))
        for piece, score in pieces
    ]
    state["model"]["vocab"] = special + sorted(fixed, key=lambda it: (-it[1], it[0]))
    return tokenizers.Tokenizer.from_str(json.dumps(state))
