"""Rebuild the index of an existing collection with another type or parameters."""

import logging
from collections.abc import Sequence

from coca.core.errors import SearchError
from coca.core.progress import Bar, ProgressMaker, silent
from coca.search.index_params.vector_index import VectorIndex
from coca.search.milvus.connection import Connection
from coca.search.milvus.index_build import (
    PATIENCE_S,
    build_index,
    drop_index,
    index_state,
)
from coca.search.milvus.schema import (
    Layout,
    keep_index,
    load_collection,
    release_collection,
)
from coca.search.vector_codec import VectorCodec

logger = logging.getLogger(__name__)


def change_index(
    connection: Connection,
    layout: Layout,
    index: VectorIndex,
    *,
    rows: int,
    progress: ProgressMaker = silent,
    patience_s: float = PATIENCE_S,
) -> Layout:
    """Replace the index of all vectors; searches fail meanwhile, and no row is lost.

    Returns:
        The layout with the new index.
    """
    index.build_params(layout.codec.dimensions)
    # On Lite captions may have no index yet.
    indexed = [one for one in layout.vectors if index_state(connection, *one) is not None]
    release_collection(connection, layout)
    try:
        with progress(f"build {index.type}", rows * len(indexed)) as bar:
            _replace(connection, indexed, index, layout.codec, bar, patience_s)
        layout = keep_index(connection, layout, index)
    except SearchError:
        logger.warning("%s could not be built: %s comes back", index.type, layout.index.type)
        with progress(f"build {layout.index.type} again", rows * len(indexed)) as bar:
            _replace(connection, indexed, layout.index, layout.codec, bar, PATIENCE_S)
        raise
    finally:
        # This also finishes a build interrupted by Ctrl-C.
        load_collection(connection, layout)
    return layout


def _replace(
    connection: Connection,
    vectors: Sequence[tuple[str, str]],
    index: VectorIndex,
    codec: VectorCodec,
    bar: Bar,
    patience_s: float,
) -> None:
    for name, column in vectors:
        drop_index(connection, name, column)
        build_index(
            connection,
            name,
            column,
            index,
            codec=codec,
            bar=bar,
            patience_s=patience_s,
        )
