"""Parse index specifications, and choose an index type that Milvus supports."""

import dataclasses
import logging
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args

from coca.core.errors import ArgumentError, SearchError, did_you_mean
from coca.search.index_params.capabilities import Capabilities
from coca.search.index_params.params import VectorIndex
from coca.search.index_params.types import INDEX_TYPES, Auto, GpuCagra, Hnsw

logger = logging.getLogger(__name__)

_NOT_FOR_FLOATS = {
    "BIN_FLAT": "vectors of bits",
    "BIN_IVF_FLAT": "vectors of bits",
    "MINHASH_LSH": "sets of hashes",
    "SPARSE_INVERTED_INDEX": "words; a collection of captions has one where Milvus can",
    "SPARSE_WAND": "words; a collection of captions has one where Milvus can",
}

_NEXT_BEST = {
    "AISAQ": ("DISKANN", "the compressed copy must fit into memory"),
    "DISKANN": ("HNSW", "all vectors must fit into memory"),
    "FAISS": ("HNSW", "faiss's own name is not used"),
    "GPU_BRUTE_FORCE": ("FLAT", "no GPU takes part"),
    "GPU_CAGRA": ("HNSW", "no GPU takes part"),
    "GPU_IVF_FLAT": ("IVF_FLAT", "no GPU takes part"),
    "GPU_IVF_PQ": ("IVF_PQ", "no GPU takes part"),
    "HNSW_PRQ": ("HNSW_PQ", "vectors take a little more memory"),
    "HNSW_PQ": ("HNSW_SQ", "vectors take a quarter of their memory, and not an eighth or less"),
    "HNSW_SQ": ("HNSW", "vectors take all of their memory"),
    "IVF_RABITQ": ("IVF_PQ", "vectors take a little more memory"),
    "IVF_PQ": ("IVF_SQ8", "vectors take a quarter of their memory, and not an eighth or less"),
    "SCANN": ("IVF_FLAT", "a search takes longer"),
}
"""Index type -> closest supported type, and the cost of it."""


def parse_index(text: str) -> VectorIndex:
    """Parse an index specification such as `"HNSW"` or `"HNSW:M=32,efConstruction=400"`.

    Raises:
        SearchError: The type or parameter is unknown, or a value is out of range.
    """
    name, _, rest = text.partition(":")
    name = name.strip().upper()
    if name in _NOT_FOR_FLOATS:
        raise ArgumentError(f"{name} is for {_NOT_FOR_FLOATS[name]}; CoCa's vectors are floats")
    if name not in INDEX_TYPES:
        raise ArgumentError(f"no index type {name!r}: {did_you_mean(name, INDEX_TYPES)}")
    kind = INDEX_TYPES[name]
    fields = {field.metadata["name"] or field.name: field for field in dataclasses.fields(kind)}
    settings = {}
    for part in filter(None, (part.strip() for part in _split(rest))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in fields:
            raise ArgumentError(f"{name} has no setting {part!r}: {did_you_mean(key, fields)}")
        settings[fields[key].name] = _read(value, fields[key].type, f"{key} of {name}")
    return kind(**settings)


def choose_index(
    wanted: VectorIndex | None, capabilities: Capabilities, *, fallback: bool | None = None
) -> VectorIndex:
    """Choose the index to build: the requested type, or the closest supported type.

    Args:
        wanted: Requested index; None means `HNSW`, or `AUTOINDEX` on Zilliz Cloud.
        capabilities: Features of the Milvus that builds it.
        fallback: Whether another type may be used, with a warning; by default on Lite only.

    Raises:
        SearchError: It is unsupported, and `fallback` is off.
    """
    if wanted is None:
        return Auto() if capabilities.cloud else Hnsw()
    if wanted.type in capabilities.indexes:
        return _fitted(wanted, capabilities, fallback)
    taken, losses = wanted.type, []
    while taken not in capabilities.indexes:
        if capabilities.cloud or taken not in _NEXT_BEST:
            taken, losses = "AUTOINDEX", ["it chooses its own settings"]
            break
        taken, loss = _NEXT_BEST[taken]
        losses.append(loss)
    if not (capabilities.lite if fallback is None else fallback):
        raise SearchError(
            f"{capabilities.name} cannot build {wanted.type}; it can build "
            f"{', '.join(sorted(capabilities.indexes))}, of which {taken} comes closest"
        )
    logger.warning(
        "%s cannot build %s: %s is built instead, so %s",
        capabilities.name,
        wanted.type,
        taken,
        losses[-1],
    )
    return _with_settings_of(wanted, INDEX_TYPES[taken])


def _fitted(wanted: VectorIndex, capabilities: Capabilities, fallback: bool | None) -> VectorIndex:
    """Remove parameters that this Milvus does not support, and would ignore or refuse."""
    if not isinstance(wanted, GpuCagra) or not wanted.adapt_for_cpu or capabilities.adapt_for_cpu:
        return wanted
    sentence = f"{capabilities.name} has no adapt_for_cpu; servers from 2.6.1 on have it"
    if not (capabilities.lite if fallback is None else fallback):
        raise SearchError(f"{sentence}: without it, searches by {wanted.type} need the GPU")
    logger.warning("%s: it is left out, so searches by %s need the GPU", sentence, wanted.type)
    return dataclasses.replace(wanted, adapt_for_cpu=False)


def index_of(description: Mapping[str, Any]) -> VectorIndex:
    """Read the index from a description of Milvus; an unknown type becomes `AUTOINDEX`."""
    kind = INDEX_TYPES.get(str(description.get("index_type")), Auto)
    # Some versions return the parameters at the top level, others in a nested object.
    nested = description.get("params")
    values = dict(description) | (dict(nested) if isinstance(nested, Mapping) else {})
    if isinstance(inner := values.get("params"), Mapping):
        values |= inner
    settings = {}
    for field in dataclasses.fields(kind):
        name = field.metadata["name"] or field.name
        if name in values:
            settings[field.name] = _read(str(values[name]), field.type, f"{name} of {kind.type}")
    return kind(**settings)


def _with_settings_of(wanted: VectorIndex, kind: type[VectorIndex]) -> VectorIndex:
    shared = {field.name for field in dataclasses.fields(kind)} & {
        field.name for field in dataclasses.fields(wanted)
    }
    return kind(**{name: getattr(wanted, name) for name in shared})


def _split(rest: str) -> list[str]:
    """Split parameters at commas, except commas within a value, as in faiss names."""
    parts: list[str] = []
    for piece in rest.split(","):
        if parts and "=" not in piece:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


def _read(text: str, kind: Any, name: str) -> Any:
    """Parse a value by its field's type; the index checks the range."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise ArgumentError(f"{name} is {text!r}; it may be true or false")
        return text.lower() == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                raise ArgumentError(f"{name} is {text!r}, and not a number") from None
    return text
