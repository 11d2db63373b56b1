"""Byte-level BPE and unigram tokenizer, and the token layout that the model reads.

    [BOS] t1 .. tn [EOS] [CLS] [PAD] ..          ids 1, text tokens, 2, 3, 0 ..

Tokens are sequences of bytes, so that any text can be encoded. The vocabulary is learned from the
captions; a list of common words may extend it, so that a word that no caption has is one token.
Dimensions: B batch, T tokens.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tokenizers
import torch
from jaxtyping import Int64
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from coca.core.errors import ConfigError, DataError, ModelError
from coca.core.files.atomic import write_atomic
from coca.core.registry import Registry
from coca.processing import tokenizer_file
from coca.processing.tokenizer_file import whole

PAD_ID, BOS_ID, EOS_ID, CLS_ID = range(4)
SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[EOS]", "[CLS]")
"""Names of ids 0 to 3; within a caption such a name is plain text."""

MIN_CONTEXT_LENGTH = 4
"""[BOS], one text token, [EOS], [CLS]."""

_SPACE = "\u0120"
"""The byte of a space in the byte-level alphabet of GPT-2."""

# 4 special tokens and 256 bytes; a vocabulary needs at least one learned token in addition.
_UNLEARNED = 260


def check_context_length(context_length: int) -> None:
    """Check that a caption has room for special tokens and a text token."""
    if context_length < MIN_CONTEXT_LENGTH:
        raise ConfigError(
            f"context_length is {context_length}; it must be at least {MIN_CONTEXT_LENGTH}"
        )


class TextTokenizer(ABC):
    """Base class of tokenizers, with the layout of a caption: first id, text tokens, last ids."""

    bos_id: int
    """First id of each caption."""
    last_ids: tuple[int, ...]
    """Ids after the text tokens of each caption; the first of them is `eos_id`."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a tokenizer of the `tokenizers` package."""
        # Without this, the name of a special token in a caption would become that token.
        backend.encode_special_tokens = True
        self._backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling of the backend loses `encode_special_tokens`, and some settings are functions.
        return type(self)._from_json, (self._backend.to_str(),)

    @classmethod
    def _from_json(cls, text: str) -> "TextTokenizer":
        return cls(tokenizers.Tokenizer.from_str(text))

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._backend.get_vocab_size()

    @property
    def eos_id(self) -> int:
        """Id after the text tokens of each caption."""
        return self.last_ids[0]

    @property
    def reserved(self) -> int:
        """Number of special tokens in a caption."""
        return 1 + len(self.last_ids)

    def encode(self, texts: Sequence[str], *, context_length: int) -> Int64[Tensor, "B T"]:
        """Encode captions to ids, padded to the longest, rounded up to a multiple of 8.

        A caption that is too long is truncated but keeps its special tokens.
        """
        check_context_length(context_length)
        room = context_length - self.reserved
        ids = [self.leading_ids(text, room) for text in texts]
        return self.format_ids(ids, context_length=context_length)

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` text tokens of a text of any length."""
        return tokenizer_file.leading_ids(self._text_ids, text, count)

    def format_ids(
        self, rows: Sequence[Sequence[int]], *, context_length: int
    ) -> Int64[Tensor, "B T"]:
        """Add special tokens to rows of text ids; pad and truncate as `encode` does."""
        room = context_length - self.reserved
        return padded([[self.bos_id, *row[:room], *self.last_ids] for row in rows], context_length)

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt for the model to complete: the first id and the text tokens."""
        return [self.bos_id, *self._text_ids(text)]

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Decode a caption up to its end token."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` in the format of the `tokenizers` library."""

    @abstractmethod
    def _text_ids(self, text: str) -> list[int]:
        """Encode a text without special tokens."""


class Tokenizer(TextTokenizer):
    """Tokenizer with a learned vocabulary (BPE or unigram).

    Text is normalized first: Unicode NFC, lower case by default, no spaces at the ends. Decoding
    returns the normalized text. A caption is [BOS], text tokens, [EOS], [CLS].
    """

    bos_id = BOS_ID
    last_ids = (EOS_ID, CLS_ID)

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a tokenizer of the `tokenizers` package."""
        for id_, token in enumerate(SPECIAL_TOKENS):
            found = backend.id_to_token(id_)
            if found != token:
                raise ModelError(f"id {id_} of the tokenizer is {found!r}; it must be {token!r}")
        super().__init__(backend)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        kind: str = "bpe",
        lowercase: bool = True,
        words: Sequence[str] = (),
    ) -> "Tokenizer":
        """Train a vocabulary; the result is bit-identical for identical texts."""
        if words and kind != "bpe":
            raise ConfigError(f"words need a tokenizer of kind 'bpe', got {kind!r}")
        if words and vocab_size - len(words) <= _UNLEARNED:
            raise ConfigError(
                f"vocab_size is {vocab_size}; it must be above {_UNLEARNED + len(words)}, which "
                f"the special tokens, the single bytes and {len(words)} words take"
            )
        checked = map(whole, texts)
        first = next(checked, None)
        if first is None:
            raise DataError("there is no text to learn a vocabulary from", reason="empty")
        learn = TOKENIZERS.get(kind)
        backend = learn(chain([first], checked), vocab_size - len(words), lowercase)
        return cls(_with_words(backend, words) if words else backend)

    @property
    def learned_size(self) -> int:
        """Number of ids that were learned from captions; larger ids are words of a list."""
        model = json.loads(self._backend.to_str())["model"]
        if not model.get("ignore_merges"):
            return self.vocab_size
        return _UNLEARNED + len(model["merges"])

    def words(self) -> list[str | None]:
        """List the word of each id; None for a special token or a part of a word.

        A word begins with a space in the vocabulary. A punctuation mark counts as a word.
        """
        found: list[str | None] = []
        for id_ in range(self.vocab_size):
            token, text = self._backend.id_to_token(id_) or "", self._backend.decode([id_])
            is_word = token.startswith(_SPACE) or not any(map(str.isalnum, text))
            whole = id_ > CLS_ID and is_word and text.strip() and "\ufffd" not in text
            found.append(text.strip() if whole else None)
        return found

    def normalize(self, text: str) -> str:
        """Normalize a text to the form that `decode` returns."""
        normalizer = self._backend.normalizer
        if normalizer is None:
            return text
        return tokenizer_file.guarded(
            lambda: normalizer.normalize_str(text),
            "the model's tokenizer cannot normalize {!r}",
            text,
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Decode a caption up to its first [EOS]; special tokens are skipped.

        Bytes that are not UTF-8 become U+FFFD. Ids above the vocabulary are skipped, since the
        embedding of a model may have more rows than the vocabulary has tokens.
        """
        text_ids = []
        for id_ in ids:
            if id_ == EOS_ID:
                break
            if id_ > CLS_ID:
                text_ids.append(int(id_))
        return tokenizer_file.decode_ids(self._backend, text_ids).removeprefix(" ")

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` in the format of the `tokenizers` library."""
        write_atomic(path, self._backend.to_str(pretty=True).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load a file that `save` wrote."""
        backend = tokenizer_file.read_tokenizer(path)
        try:
            return cls(backend)
        except ModelError as error:
            raise ModelError(f"{path} does not fit: {error}") from error

    def _text_ids(self, text: str) -> list[int]:
        return tokenizer_file.encode_text(self._backend, whole(text))


TokenizerTrainer: TypeAlias = Callable[[Iterable[str], int, bool], tokenizers.Tokenizer]
"""(texts, largest number of ids, whether to convert to lower case) -> a tokenizer of the package
`tokenizers` whose ids 0 to 3 are `SPECIAL_TOKENS`. Its parts must be of the types in
`coca.processing.tokenizer_file`, so that the model loads without the plugin."""

TOKENIZERS: Registry[TokenizerTrainer] = Registry("tokenizer", "tokenizers")


@TOKENIZERS.register("bpe")
def _bpe(texts: Iterable[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    return _byte_level(backend, trainers.BpeTrainer, texts, vocab_size, lowercase)


@TOKENIZERS.register("unigram")
def _unigram(texts: Iterable[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.Unigram())
    return _deterministic(
        _byte_level(backend, trainers.UnigramTrainer, texts, vocab_size, lowercase)
    )


def _byte_level(
    backend: tokenizers.Tokenizer,
    make: Callable[..., Any],
    texts: Iterable[str],
    vocab_size: int,
    lowercase: bool,
) -> tokenizers.Tokenizer:
    """Train a vocabulary of byte sequences."""
    if vocab_size <= _UNLEARNED:
        raise ConfigError(
            f"vocab_size is {vocab_size}; it must be above {_UNLEARNED}, which the special tokens "
            "and the single bytes take"
        )
    steps = [normalizers.NFC(), normalizers.Strip()]
    if lowercase:
        # Before NFC, since a lower-case letter may have a composed form that the capital lacks.
        steps.insert(0, normalizers.Lowercase())
    backend.normalizer = normalizers.Sequence(steps)
    # A space belongs to the word after it. The first word gets a space as well, so that "car" is
    # the same token at the start of a caption and within it.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = make(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def padded(rows: Sequence[Sequence[int]], context_length: int) -> Int64[Tensor, "B T"]:
    """Pad rows of ids with id 0 to one batch; no row may be longer than `context_length`."""
    longest = max((len(row) for row in rows), default=1)
    # Few distinct widths, so that compiled graphs are reused.
    width = min(-(-longest // 8) * 8, context_length)
    ids = np.full((len(rows), width), PAD_ID, dtype=np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(ids)


def _with_words(backend: tokenizers.Tokenizer, words: Sequence[str]) -> tokenizers.Tokenizer:
    """Add words to a byte-level BPE vocabulary, each as one token with a space before it.

    With `ignore_merges`, a word of the vocabulary is encoded as it is, without merges that lead to
    it. All other words are encoded as before.
    """
    state = json.loads(backend.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    for word in words:
        pieces = backend.pre_tokenizer.pre_tokenize_str(word)
        if len(pieces) == 1 and backend.normalizer.normalize_str(word) == word:
            vocabulary.setdefault(pieces[0][0], len(vocabulary))
    state["model"]["ignore_merges"] = True
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _deterministic(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Make a trained unigram vocabulary deterministic.

    The trainer iterates over hash tables, whose order differs between runs. The order affects the
    last digits of scores, the order of equal scores, and the single bytes that were too rare to be
    scored. These get the lowest score plus 0, 0.0001, 0.0002 and so on in iteration order.
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
