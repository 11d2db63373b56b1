"""What can be chosen when a collection is made, and what a Milvus makes of it."""

import logging
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from coca.core.errors import ArgumentError, SearchError
from coca.search.index_params.advisor import choose_index
from coca.search.index_params.capabilities import Capabilities
from coca.search.index_params.params import VectorIndex

logger = logging.getLogger(__name__)

Consistency: TypeAlias = Literal["Strong", "Session", "Bounded", "Eventually"]


@dataclass(frozen=True, kw_only=True)
class CollectionSettings:
    """How a new collection is kept; the defaults suit up to some millions of images."""

    index: VectorIndex | None = None
    """Index of the vectors; None takes what suits most, see `choose_index`."""
    fallback: bool | None = None
    """Take what comes closest where Milvus lacks something, with a warning, instead of an error;
    by default on Lite only."""
    shards: int = 1
    """Writers that share the rows, 1 to 16: one for each 200 million rows."""
    replicas: int = 1
    """Copies in memory that share the searches; each needs a query node of its own."""
    partition_by_album: bool = False
    """Keep albums apart, so that a filter `album == "..."` reads only a part of the rows."""
    consistency: Consistency = "Bounded"
    """How fresh an answer must be for other writers' rows; one's own are always seen.

    `Bounded` is at most some seconds behind; `Strong` waits, about 0.2 s a search.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= 16:
            raise ArgumentError(f"shards is {self.shards}; it may be 1 to 16")
        if self.replicas < 1:
            raise ArgumentError(f"replicas is {self.replicas}; it may be 1 or more")
        if self.consistency not in get_args(Consistency):
            raise ArgumentError(
                f"consistency is {self.consistency!r}; it may be {', '.join(get_args(Consistency))}"
            )

    def fitted(self, capabilities: Capabilities) -> "CollectionSettings":
        """The settings that a Milvus can keep; each that it cannot is told by a warning.

        Raises:
            SearchError: It cannot keep one, and `fallback` does not let it go.
        """
        index = choose_index(self.index, capabilities, fallback=self.fallback)
        fitted, lost = replace(self, index=index), []
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
        return fitted
