"""CLIP's byte pair encoding, as the open CoCa weights read captions: ids equal to open_clip's.

    [SOT] w1 .. wn [EOT] [PAD] ..          ids 49406, words, 49407, 0 ..

Id 0 is also the piece "!" within a run of signs. The model itself adds what it reads a caption's
embedding from. Axis letters: B batch, T tokens.
"""

import gzip
import html
import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers
from jaxtyping import Int64
from tokenizers import Regex, decoders, models, pre_tokenizers
from torch import Tensor

from coca.core.errors import ConfigError, ModelError
from coca.core.extras import require
from coca.core.files import write_atomic
from coca.processing.tokenizer import MIN_CONTEXT_LENGTH, padded, read_backend

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
"""Names of the ids that begin and end a caption; within a caption they are plain text."""

MERGES = 48_894
"""Pieces that CLIP's vocabulary joins from two others; 49,408 ids in all."""

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
"""The list of joins as CLIP and open_clip ship it, in the order of their ids."""

_WORD_END = "</w>"
_BLANK = "\u0120"
"""The blank in the alphabet of bytes."""

# The endings that English clips, letters in a row, one digit, or signs in a row. The combining
# iota is none of them, since the reference matches without regard to case and it has capitals.
_WORDS = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+")


class ClipTokenizer:
    """Text to the ids of CLIP's vocabulary, and back in small letters.

    Text is repaired by ftfy, freed of HTML entities and spare blanks, and lower-cased; so decoding
    does not give back what was encoded. Letters that Unicode gained lately may be cut differently
    from open_clip, whose own cuts depend on the age of its `regex` package.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a tokenizer of the `tokenizers` package; only its vocabulary is used.

        Raises:
            ModelError: The vocabulary is not of CLIP's kind.
            MissingExtraError: ftfy is not installed.
        """
        first, last = backend.token_to_id(SOT), backend.token_to_id(EOT)
        ends_words = getattr(backend.model, "end_of_word_suffix", None) == _WORD_END
        if first is None or last is None or not ends_words:
            raise ModelError(
                f"the tokenizer is not CLIP's: it needs {SOT}, {EOT} and pieces that end in "
                f"{_WORD_END}"
            )
        self._first: int = first
        self._last: int = last
        self._fixed: Callable[[str], str] = require("ftfy", extra="hub").fix_text
        # Files from elsewhere clean and cut a little differently.
        backend.normalizer = None
        backend.post_processor = None
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(_WORDS, behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.Sequence(
            [decoders.Replace(_WORD_END, _BLANK), decoders.ByteLevel()]
        )
        # Without this, a caption could end itself by holding the name of the last id.
        backend.encode_special_tokens = True
        self._backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        # Functions and the backend's settings do not pickle.
        return ClipTokenizer._from_json, (self._backend.to_str(),)

    @classmethod
    def from_merges(cls, merges: Sequence[tuple[str, str]]) -> "ClipTokenizer":
        """Build the vocabulary from its joins, in CLIP's order: bytes, ends of words, joins."""
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        ends = [letter + _WORD_END for letter in letters]
        pieces = [*letters, *ends, *map("".join, merges), SOT, EOT]
        ids = {piece: id_ for id_, piece in enumerate(pieces)}
        model = models.BPE(ids, list(merges), end_of_word_suffix=_WORD_END)
        backend = tokenizers.Tokenizer(model)
        backend.add_special_tokens([SOT, EOT])
        return cls(backend)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._backend.get_vocab_size()

    @property
    def bos_id(self) -> int:
        """Begins each caption."""
        return self._first

    @property
    def eos_id(self) -> int:
        """Ends the words of each caption."""
        return self._last

    def encode(self, texts: Sequence[str], *, context_length: int) -> Int64[Tensor, "B T"]:
        """Captions to ids, padded to the longest, rounded up to a multiple of 8.

        A caption that is too long loses its end but keeps [EOT].

        Args:
            texts: Captions; an empty one has no words between [SOT] and [EOT].
            context_length: Largest T, special tokens included; 76 for the open weights.

        Raises:
            ConfigError: `context_length` leaves no room for a word.
        """
        if context_length < MIN_CONTEXT_LENGTH:
            raise ConfigError(
                f"context_length is {context_length}; it must be at least {MIN_CONTEXT_LENGTH}"
            )
        return self.format_ids([self._words(text) for text in texts], context_length=context_length)

    @property
    def reserved(self) -> int:
        """Ids of a caption that are no words: [SOT] and [EOT]."""
        return 2

    def format_ids(
        self, rows: Sequence[Sequence[int]], *, context_length: int
    ) -> Int64[Tensor, "B T"]:
        """Ids of words to captions, as `encode` does it behind cutting texts into pieces."""
        room = context_length - self.reserved
        return padded([[self._first, *row[:room], self._last] for row in rows], context_length)

    def encode_prompt(self, text: str) -> list[int]:
        """The beginning of a caption, for the model to go on: [SOT] and the words."""
        return [self._first, *self._words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a caption up to its first [EOT], with a blank behind each word and sign.

        Bytes that are no UTF-8 become U+FFFD. Ids above the vocabulary are left out.
        """
        words = []
        for id_ in ids:
            if id_ == self._last:
                break
            if id_ != self._first:
                words.append(int(id_))
        return self._backend.decode(words, skip_special_tokens=False).removesuffix(" ")

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`, a format that other libraries read as well."""
        write_atomic(path, self._backend.to_str().encode())

    @classmethod
    def _from_json(cls, text: str) -> "ClipTokenizer":
        return cls(tokenizers.Tokenizer.from_str(text))

    def _words(self, text: str) -> list[int]:
        return self._backend.encode(self._clean(text), add_special_tokens=False).ids

    def _clean(self, text: str) -> str:
        """The text as CLIP cleans it, in its order."""
        # Most captions; ftfy takes longer than all the rest.
        if not (text.isascii() and text.isprintable() and "&" not in text):
            text = html.unescape(html.unescape(self._fixed(text)))
        return " ".join(text.split()).lower()


def read_vocabulary(path: str | Path) -> ClipTokenizer:
    """Read CLIP's vocabulary in any of the forms in which it is passed on.

    Args:
        path: `bpe_simple_vocab_16e6.txt.gz`, `merges.txt`, or a `tokenizer.json`.

    Raises:
        ModelError: The file is missing, damaged, or holds another vocabulary.
    """
    path = Path(path)
    if path.suffix != ".json":
        return ClipTokenizer.from_merges(_read_merges(path))
    try:
        return ClipTokenizer(read_backend(path))
    except ModelError as error:
        raise ModelError(f"{path} does not fit: {error}") from error


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ModelError(f"the vocabulary {path} cannot be read: {error}") from error
    # The first line tells the version; CLIP's own file goes on behind what CLIP uses.
    lines = text.split("\n")[1 : MERGES + 1]
    pairs = [tuple(line.split()) for line in lines]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != MERGES:
        raise ModelError(
            f"{path} is not CLIP's vocabulary: it lists {len(merges):,} joins of two pieces, not "
            f"{MERGES:,}"
        )
    return merges


def installed_vocabulary() -> Path | None:
    """The vocabulary within an installed open_clip_torch, which is not imported for it."""
    found = find_spec("open_clip")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name(VOCABULARY_FILE)
    return path if path.is_file() else None
