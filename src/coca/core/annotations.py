"""Parse captions, labels and other fields of images, from sidecar files and records.

A record is a JSON object or a row of a table. The sidecar files of `cat.jpg` are `cat.txt` and
`cat.json`; training and search read them by the same rule, that of `read_sidecars`. Search also
reads `cat.xmp` and `cat.jpg.xmp`, which photo programs write.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coca.core.errors import DataError
from coca.core.files.local_files import read_regular

SIDECAR_SUFFIXES = (".txt", ".json")
XMP_SUFFIX = ".xmp"

_MAX_SIDECAR_BYTES = 16 << 20
"""A collection stores 64 KiB of metadata; the limit leaves room for whitespace."""


@dataclass(frozen=True)
class Sidecars:
    """Content of the sidecar files of one image."""

    captions: tuple[str, ...] = ()
    """All captions, without surrounding whitespace, each once; the first is the main caption."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """All other fields of the JSON, such as labels, tags and metadata."""


def sidecar_paths(image: str | Path) -> list[str]:
    """List the paths of all sidecar files that an image may have, `IMAGE.xmp` last."""
    stem = os.path.splitext(image)[0]
    return [*(stem + suffix for suffix in (*SIDECAR_SUFFIXES, XMP_SUFFIX)), f"{image}{XMP_SUFFIX}"]


def read_xmp_sidecars(image: str | Path, *, max_bytes: int) -> Iterator[bytes]:
    """Read the XMP files of an image: `IMAGE.xmp` (digiKam, darktable), `NAME.xmp` (Adobe)."""
    *_, by_name, by_image = sidecar_paths(image)
    for path in (by_image, by_name):
        if (content := _read(path, max_bytes)) is not None:
            yield content


def read_sidecars(image: str | Path) -> Sidecars:
    """Read the sidecar files `NAME.txt` and `NAME.json` of an image; both are optional.

    Every line of `NAME.txt` is a caption. `NAME.json` is an object with any fields. Its fields
    `caption` and `captions` are captions as well, each a text or a list of texts. The order is:
    lines of the text file, `caption`, `captions`. An object under `metadata` is merged into the
    other fields, and takes precedence over fields of the same name.
    """
    text_file, record_file, *_ = sidecar_paths(image)
    text, content = _read(text_file), _read(record_file)
    record = {} if content is None else parse_record(content, record_file)
    section = record.pop("metadata", {})
    if not isinstance(section, dict):
        raise DataError(
            f"'metadata' of {record_file} must be an object, got {section!r:.80}",
            reason="bad_record",
        )
    record |= section
    lines = [] if text is None else parse_text(text, text_file).splitlines()
    for name in ("caption", "captions"):
        lines += first_texts(record, record_file, (name,))
        record.pop(name, None)
    stripped = (line.strip() for line in lines)
    return Sidecars(tuple(dict.fromkeys(line for line in stripped if line)), record)


def parse_text(content: bytes, name: str) -> str:
    """Decode the content of a text file; `name` identifies it in errors."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error}", reason="bad_text") from error


def parse_record(content: bytes | str, name: str) -> dict[str, Any]:
    """Parse the JSON object of a sidecar file or line; `name` identifies it in errors.

    NaN, Infinity and numbers beyond the range of a float are not valid JSON and become null.
    """
    try:
        record = json.loads(content, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {error}", reason="bad_record") from error
    if not isinstance(record, dict):
        raise DataError(
            f"{name} contains {record!r:.40}; it must be a JSON object", reason="bad_record"
        )
    return record


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
    """Split a record, such as a JSON sidecar or a table row, into the fields of a `Sample`.

    Returns:
        Captions, labels, and the rest as metadata.
    """
    captions = first_texts(record, origin, caption_names)
    labels = first_texts(record, origin, label_names)
    named = {*caption_names, *label_names}
    return captions, labels, {name: record[name] for name in record if name not in named}


def first_texts(record: Mapping[str, Any], origin: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of the first non-empty field of `names`; `origin` identifies the record."""
    for name in names:
        value = record.get(name)
        if value is None or value in ("", [], ()):
            continue
        # Integers occur as labels: class indices.
        texts = [value] if isinstance(value, str | int) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str | int) for t in texts):
            raise DataError(
                f"{name!r} of {origin} must be a text or a list of texts, got {value!r:.80}",
                reason="bad_record",
            )
        return tuple(str(text) for text in texts)
    return ()


def _read(path: str, max_bytes: int = _MAX_SIDECAR_BYTES) -> bytes | None:
    try:
        return read_regular(path, max_bytes=max_bytes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {problem}", reason="bad_sidecar") from error
