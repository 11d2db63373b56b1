"""Choose an index type that Milvus supports."""

import logging
from collections.abc import Mapping

from coca.core.errors import SearchError
from coca.search.index_params.capabilities import Capabilities
from coca.search.index_params.params import Value
from coca.search.index_params.types import INDEX_TYPES
from coca.search.index_params.vector_index import VectorIndex
from coca.search.vector_encoding import Precision

logger = logging.getLogger(__name__)


def choose_index(
    wanted: VectorIndex | None,
    capabilities: Capabilities,
    *,
    precision: Precision = "float32",
    fallback: bool | None = None,
) -> VectorIndex:
    """Choose the index to build: the requested type, or the closest supported type.

    Args:
        wanted: Requested index; None means `HNSW`, `BIN_FLAT` for binary vectors, or `AUTOINDEX` on
            Zilliz Cloud.
        capabilities: Features of the Milvus that builds it.
        precision: Precision of the vectors.
        fallback: Whether another type may be used, with a warning; by default on Lite only.

    Raises:
        SearchError: It is unsupported, and `fallback` is off, or not for this precision.
    """
    if wanted is None:
        if precision == "binary":
            return VectorIndex("BIN_FLAT")
        return VectorIndex("AUTOINDEX" if capabilities.cloud else "HNSW")
    if precision not in wanted.spec.precisions:
        raise SearchError(
            f"{wanted.type} indexes {' and '.join(wanted.spec.precisions)} vectors, and these are "
            f"{precision}; allowed: {', '.join(_buildable(precision, capabilities))}"
        )
    fallback = capabilities.lite if fallback is None else fallback
    if wanted.type in capabilities.indexes:
        return _without_new_params(wanted, capabilities, fallback=fallback)
    taken, loss = wanted.type, ""
    while taken not in capabilities.indexes:
        spec = INDEX_TYPES[taken]
        if capabilities.cloud or not spec.next_best:
            taken, loss = "AUTOINDEX", "it chooses its own settings"
            break
        taken, loss = spec.next_best, spec.loss
    if not fallback:
        raise SearchError(
            f"{capabilities.name} cannot build {wanted.type}; it can build "
            f"{', '.join(_buildable(precision, capabilities))}, of which {taken} comes closest"
        )
    logger.warning(
        "%s cannot build %s: %s is built instead, so %s",
        capabilities.name,
        wanted.type,
        taken,
        loss,
    )
    return VectorIndex(taken, _known(taken, wanted.params))


def _buildable(precision: Precision, capabilities: Capabilities) -> list[str]:
    return sorted(one for one in capabilities.indexes if precision in INDEX_TYPES[one].precisions)


def _without_new_params(
    wanted: VectorIndex, capabilities: Capabilities, *, fallback: bool
) -> VectorIndex:
    """Reset parameters that this Milvus does not have, and would ignore or refuse."""
    params = dict(wanted.params)
    for param in wanted.spec.build:
        if param.since <= capabilities.version or params[param.name] == param.default:
            continue
        version = ".".join(map(str, param.since))
        lacking = f"{capabilities.name} has no {param.name}; servers from {version} on have it"
        if not fallback:
            raise SearchError(f"{lacking}: without it, {param.without}")
        logger.warning("%s: it is left out, so %s", lacking, param.without)
        params[param.name] = param.default
    return wanted if params == wanted.params else VectorIndex(wanted.type, params)


def _known(index_type: str, params: Mapping[str, Value]) -> dict[str, Value]:
    """Keep the parameters that a type has."""
    return {
        one.name: params[one.name] for one in INDEX_TYPES[index_type].build if one.name in params
    }
