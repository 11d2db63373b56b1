"""Configuration of a new collection, fitted to the features of Milvus."""

import logging
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Interval

from coca.core.config.base import Config
from coca.core.errors import ArgumentError, SearchError
from coca.search.index_params.advisor import choose_index
from coca.search.index_params.capabilities import Capabilities
from coca.search.index_params.vector_index import VectorIndex
from coca.search.records import WHOLE
from coca.search.vector_codec import VECTOR_TYPES
from coca.search.vector_encoding import VectorEncoding

logger = logging.getLogger(__name__)

Consistency: TypeAlias = Literal["Strong", "Session", "Bounded", "Eventually"]


@dataclass(frozen=True, kw_only=True)
class CollectionSettings(Config):
    """Configuration of a new collection; the defaults suit up to some millions of images."""

    range_error: ClassVar = ArgumentError

    index: VectorIndex | None = None
    """Index of the vectors; None selects the default, see `choose_index`."""
    encoding: VectorEncoding = WHOLE
    """Form in which the vectors are stored; by default whole and in float32."""
    fallback: bool | None = None
    """Whether to use the closest supported setting, with a warning, instead of an error; by default
    on Lite only."""
    shards: Annotated[int, Interval(ge=1, le=16)] = 1
    """Number of shards that divide the writes: one for each 200 million rows."""
    replicas: Annotated[int, Ge(1)] = 1
    """Number of in-memory replicas that share the searches; each needs its own query node."""
    partition_by_album: bool = False
    """Partition by album, so that a filter `album == "..."` reads only some of the rows."""
    consistency: Consistency = "Bounded"
    """Consistency level for other clients' writes; own writes are always visible.

    `Bounded` is at most some seconds stale; `Strong` waits, about 0.2 s a search.
    """

    def fitted(self, capabilities: Capabilities) -> "CollectionSettings":
        """Fit the configuration to the features of Milvus; warn of each unsupported setting.

        Raises:
            SearchError: A setting is unsupported, and `fallback` is off.
        """
        fitted, lost = self, []
        precision = self.encoding.precision
        if VECTOR_TYPES[precision] not in capabilities.vector_types:
            lost.append(f"precision={precision}")
            fitted = replace(fitted, encoding=replace(self.encoding, precision="float32"))
        if self.shards > 1 and not capabilities.shards:
            lost.append(f"shards={self.shards}")
            fitted = replace(fitted, shards=1)
        if self.replicas > 1 and not capabilities.replicas:
            lost.append(f"replicas={self.replicas}")
            fitted = replace(fitted, replicas=1)
        if self.partition_by_album and not capabilities.partition_key:
            lost.append("partition_by_album")
            fitted = replace(fitted, partition_by_album=False)
        if lost:
            sentence = f"{capabilities.name} cannot keep a collection with {', '.join(lost)}"
            if not (capabilities.lite if self.fallback is None else self.fallback):
                raise SearchError(f"{sentence}: leave that out, or let it go by `fallback`")
            logger.warning("%s: it is left out", sentence)
        index = choose_index(
            self.index,
            capabilities,
            precision=fitted.encoding.precision,
            fallback=self.fallback,
        )
        return replace(fitted, index=index)
