"""Safe use of a `tokenizer.json` of unknown origin.

The Rust library `tokenizers` runs each part that a file describes. Some parts of a hostile file
never end or exhaust the memory: the regular expression `(a+)+$` takes exponential time, and nine
replacements of one letter by ten make 10^9 letters of one. Others, such as `Precompiled`, raise a
`PanicException`, which is not an `Exception`, or abort the process. Hence only parts whose time and
output are linear in the text are accepted, and only known regular expressions. Truncation, padding
and the post-processor are dropped, since the layout of token ids is the model's.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from coca.core.errors import DataError, ModelError

T = TypeVar("T")

CLIP_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"
"""English contractions, runs of letters, single digits, or runs of punctuation. The combining iota
(U+0345) is excluded: CLIP ignores case, and its upper-case form is a letter."""

PATTERNS = (CLIP_WORDS,)
"""Regular expressions that a file may have."""
MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
PARTS = {
    "normalizer": (
        "normalizers",
        ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents"),
    ),
    "pre_tokenizer": (
        "pretokenizers",
        (
            "BertPreTokenizer",
            "ByteLevel",
            "CharDelimiterSplit",
            "Digits",
            "Metaspace",
            "Punctuation",
            "Split",
            "UnicodeScripts",
            "Whitespace",
            "WhitespaceSplit",
        ),
    ),
    "decoder": (
        "decoders",
        ("BPEDecoder", "ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "WordPiece"),
    ),
}
"""Section of a file -> key of its list of parts, and the types that a part may have."""
UNUSED = ("truncation", "padding", "post_processor")
SECTIONS = (*UNUSED, *PARTS)

_START_CHARACTERS = 2_048
"""Number of characters of a long text that are encoded first."""
_CUT_TOKENS = 64
"""Maximum number of tokens of the word at which such a start ends, for exact ids before it."""


def read_content(path: str | Path) -> dict[str, Any]:
    """Read the content of a `tokenizer.json`, without building a tokenizer."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"the tokenizer {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a tokenizer.json: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a tokenizer.json: it must be one JSON object")
    return content


def vocabulary_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce the content of a file to its vocabulary, without any part that changes texts."""
    return {**content, **dict.fromkeys(SECTIONS)}


def build_tokenizer(content: Mapping[str, Any], path: str | Path) -> tokenizers.Tokenizer:
    """Build a tokenizer from the content of `path`."""
    model = content.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind is not None and kind not in MODELS:
        raise ModelError(f"{path} has a model of the type {kind!r}; allowed: {', '.join(MODELS)}")
    for section, (key, known) in PARTS.items():
        for part in _parts(content.get(section), key):
            _check_part(part, section, known, path)
    text = json.dumps({**content, **dict.fromkeys(UNUSED)})
    return guarded(lambda: tokenizers.Tokenizer.from_str(text), f"{path} is not a tokenizer.json")


def read_tokenizer(path: str | Path) -> tokenizers.Tokenizer:
    """Load a `tokenizer.json` with any vocabulary."""
    return build_tokenizer(read_content(path), path)


def whole(text: str) -> str:
    """Return the text unchanged if it can be encoded as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text {text[max(0, error.start - 20) : error.start + 20]!r} contains a "
            "lone surrogate, which is not a character; read it with the right encoding",
            reason="bad_text",
        ) from error
    return text


def encode_text(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    """Encode a text without special tokens."""
    # One by one: `encode_batch` would start threads in every worker process.
    return guarded(
        lambda: backend.encode(text, add_special_tokens=False).ids,
        "the model's tokenizer cannot encode {!r}",
        text,
    )


def leading_ids(encode: Callable[[str], list[int]], text: str, count: int) -> list[int]:
    """Encode the first tokens of a text; the time does not grow with the rest of a long text.

    The start of a text has the same tokens as in the whole text, except near its end, where a word
    may be cut. So longer starts are encoded until one has many more tokens than are needed.
    """
    size = _START_CHARACTERS
    while size < len(text):
        # A letter at the end keeps spaces before it, which are stripped at the end of a text.
        ids = encode(f"{text[:size]}x")
        if len(ids) >= 2 * count + _CUT_TOKENS:
            return ids[:count]
        size *= 4
    return encode(text)[:count]


def decode_ids(backend: tokenizers.Tokenizer, ids: list[int]) -> str:
    """Decode ids to a text, special tokens included."""
    return guarded(
        lambda: backend.decode(ids, skip_special_tokens=False),
        "the model's tokenizer cannot decode {!r}",
        ids,
    )


def guarded(call: Callable[[], T], failure: str, *values: Any) -> T:
    """Call the library `tokenizers`; errors and panics become a `ModelError` of one sentence."""
    try:
        return call()
    except BaseException as error:
        # The library raises plain `Exception`. `PanicException` is a BaseException without a name
        # that can be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        shown = failure.format(*(value[:40] for value in values))
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown}: {reason}") from error


def _parts(part: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """Yield a part, or the parts of a sequence of any depth."""
    rest = [] if part is None else [part]
    while rest:
        part = rest.pop()
        if isinstance(part, dict) and part.get("type") == "Sequence":
            inner = part.get(key)
            rest.extend(inner if isinstance(inner, list) else ())
        else:
            yield part


def _check_part(part: Any, section: str, known: tuple[str, ...], path: str | Path) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in known:
        raise ModelError(
            f"{path} has a {section} of the type {kind!r}; allowed: {', '.join(known)}"
        )
    if "pattern" not in part:
        return
    pattern = part["pattern"]
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if regex is not None and regex not in PATTERNS:
        raise ModelError(
            f"{path} has the regular expression {str(regex)[:80]!r} in its {section}, which may "
            "take exponential time; allowed: a plain string, or the expression that coca writes"
        )
    # A replacement that grows the text makes long ones of several.
    if kind == "Replace" and len(str(part.get("content"))) > len(str(text)):
        raise ModelError(
            f"{path} replaces {str(text)[:40]!r} in its {section} by the longer "
            f"{str(part.get('content'))[:40]!r}; allowed: a replacement that is not longer"
        )
