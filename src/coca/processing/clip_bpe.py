"""CLIP's byte pair encoding (BPE) tokenizer, with ids equal to those of open_clip.

    [SOT] t1 .. tn [EOT] [PAD] ..          ids 49406, text tokens, 49407, 0 ..

Padding id 0 is also the token "!" within a run of punctuation. The model itself adds its CLS token.
Dimensions: B batch, T tokens.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from coca.core.errors import ModelError
from coca.core.extras import require
from coca.core.files.atomic import write_atomic
from coca.processing.preprocess import clean_as_clip
from coca.processing.tokenizer import TextTokenizer
from coca.processing.tokenizer_file import (
    CLIP_WORDS,
    build_tokenizer,
    decode_ids,
    encode_text,
    read_content,
    vocabulary_of,
)

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
"""Names of the start and end tokens; within a caption they are plain text."""

MERGES = 48_894
"""Number of BPE merges of CLIP; the vocabulary has 49,408 ids."""

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
"""File of BPE merges that CLIP and open_clip ship, in the order of ids."""

_WORD_END = "</w>"
_BLANK = "\u0120"
"""The space in the byte-level alphabet."""


class ClipTokenizer(TextTokenizer):
    """CLIP's BPE tokenizer; decoded text is lower case.

    Text is cleaned with ftfy, HTML entities are unescaped, whitespace is collapsed, and letters are
    lower-cased. Decoding therefore does not return the original text. Letters of recent Unicode
    versions may be split differently than in open_clip, whose result depends on the version of its
    `regex` package.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a tokenizer of the `tokenizers` package; only its vocabulary is used."""
        first, last = backend.token_to_id(SOT), backend.token_to_id(EOT)
        ends_words = getattr(backend.model, "end_of_word_suffix", None) == _WORD_END
        if first is None or last is None or not ends_words:
            raise ModelError(
                f"the tokenizer is not CLIP's: it needs {SOT}, {EOT} and pieces that end in "
                f"{_WORD_END}"
            )
        self.bos_id, self.last_ids = first, (last,)
        self._fixed: Callable[[str], str] = require("ftfy", extra="hub").fix_text
        # Other tokenizer files normalize and split slightly differently.
        backend.normalizer = None
        backend.post_processor = None
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.Sequence(
            [decoders.Replace(_WORD_END, _BLANK), decoders.ByteLevel()]
        )
        super().__init__(backend)

    @classmethod
    def from_merges(cls, merges: Sequence[tuple[str, str]]) -> "ClipTokenizer":
        """Build the vocabulary from merges, in CLIP's order: bytes, word-final bytes, merges."""
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        ends = [letter + _WORD_END for letter in letters]
        pieces = [*letters, *ends, *map("".join, merges), SOT, EOT]
        ids = {piece: id_ for id_, piece in enumerate(pieces)}
        model = models.BPE(ids, list(merges), end_of_word_suffix=_WORD_END)
        backend = tokenizers.Tokenizer(model)
        backend.add_special_tokens([SOT, EOT])
        return cls(backend)

    def decode(self, ids: Iterable[int]) -> str:
        """Decode a caption up to its first [EOT], with a space after each word and sign.

        Bytes that are not UTF-8 become U+FFFD. Ids above the vocabulary are skipped.
        """
        text_ids = []
        for id_ in ids:
            if id_ == self.eos_id:
                break
            if id_ != self.bos_id:
                text_ids.append(int(id_))
        return decode_ids(self._backend, text_ids).removesuffix(" ")

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` in the format of the `tokenizers` library."""
        write_atomic(path, self._backend.to_str().encode())

    def _text_ids(self, text: str) -> list[int]:
        return encode_text(self._backend, clean_as_clip(text, self._fixed))


def read_vocabulary(path: str | Path) -> ClipTokenizer:
    """Load CLIP's vocabulary from any of its distributed formats."""
    path = Path(path)
    if path.suffix != ".json":
        return ClipTokenizer.from_merges(_read_merges(path))
    backend = build_tokenizer(vocabulary_of(read_content(path)), path)
    try:
        return ClipTokenizer(backend)
    except ModelError as error:
        raise ModelError(f"{path} does not fit: {error}") from error


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ModelError(f"the vocabulary {path} cannot be read: {error}") from error
    # The first line is the version; CLIP's file has more merges than CLIP uses.
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
    """Find the vocabulary of an installed open_clip_torch without importing it."""
    found = find_spec("open_clip")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name(VOCABULARY_FILE)
    return path if path.is_file() else None
