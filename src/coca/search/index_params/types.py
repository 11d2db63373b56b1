"""The index types of Milvus for vectors of floats, as settings that are checked before use.

Ranges and defaults are those of Milvus 2.6 and 3.0 and of Knowhere, the library that builds them;
graphs begin a little smaller: on 100,000 vectors M=16 finds as much as brute force does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coca.search.index_params.params import (
    MAX_RESULTS,
    VectorIndex,
    heaps,
    refinement,
    setting,
    width,
)

_GPU_RESULTS = 1_024
_LARGE = 1_000_000
_REFINE_TYPES = ("SQ6", "SQ8", "FP16", "BF16", "FP32")


@dataclass(frozen=True, kw_only=True)
class Flat(VectorIndex):
    """No index: every vector is compared. Exact, and fine for tens of thousands."""

    type = "FLAT"
    exact_scores = True


@dataclass(frozen=True, kw_only=True)
class Auto(VectorIndex):
    """Whatever the other end thinks best; on Zilliz Cloud the only choice."""

    type = "AUTOINDEX"

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`; an engine that is an HNSW reads `ef`, Zilliz Cloud `level`."""
        level = min(max(round(effort), 1), 10)
        return {"level": level, "ef": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class IvfFlat(VectorIndex):
    """Vectors in `nlist` heaps, of which a search looks at some."""

    type = "IVF_FLAT"
    exact_scores = True
    nlist: int = setting(128, least=1, most=65_536)
    """Heaps; about 4 times the root of the number of vectors."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"nprobe": heaps(self.nlist, effort)}


@dataclass(frozen=True, kw_only=True)
class IvfSq8(IvfFlat):
    """As `IVF_FLAT`, with 8 bits a number: a quarter of the memory."""

    type = "IVF_SQ8"
    exact_scores = False


@dataclass(frozen=True, kw_only=True)
class IvfPq(IvfFlat):
    """As `IVF_FLAT`, with `nbits` for each of `m` pieces of a vector: 8 to 32 times smaller."""

    type = "IVF_PQ"
    exact_scores = False
    m: int | None = setting(None, least=1, most=65_536)
    """Pieces of a vector; must divide its size. Default: an eighth of the size."""
    nbits: int = setting(8, least=1, most=24)
    """Bits of a piece."""


@dataclass(frozen=True, kw_only=True)
class IvfRabitq(IvfFlat):
    """As `IVF_FLAT`, with one bit a number and a finer copy to look twice: Milvus 2.6."""

    type = "IVF_RABITQ"
    exact_scores = False
    refine: bool = setting(True)
    """Keep a finer copy; without it the recall ends at about 0.75."""
    refine_type: str = setting("SQ8", choices=_REFINE_TYPES)
    """Format of the finer copy."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        params = super().search_params(wanted, effort) | {"rbq_query_bits": 0}
        return params | ({"refine_k": refinement(effort)} if self.refine else {})


@dataclass(frozen=True, kw_only=True)
class Scann(IvfFlat):
    """As `IVF_PQ` with 4 bits a piece, made for fast instructions; the best are looked at twice."""

    type = "SCANN"
    exact_scores = False
    with_raw_data: bool = setting(True)
    """Keep the vectors, to look at the best twice."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        looked_at_twice = width(wanted, 4 * effort, most=MAX_RESULTS)
        return super().search_params(wanted, effort) | {"reorder_k": looked_at_twice}


@dataclass(frozen=True, kw_only=True)
class Hnsw(VectorIndex):
    """A graph of neighbours: the best recall for its time, as long as all fits into memory."""

    type = "HNSW"
    exact_scores = True
    M: int = setting(16, least=2, most=2_048)
    """Neighbours of a vector in the graph."""
    ef_construction: int = setting(200, least=1, most=_LARGE, name="efConstruction")
    """Candidates for these while building."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"ef": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class HnswSq(Hnsw):
    """As `HNSW`, with fewer bits a number: a quarter of the memory, and hardly less recall."""

    type = "HNSW_SQ"
    exact_scores = False
    sq_type: str = setting("SQ8", choices=("SQ4U", "SQ6", "SQ8", "BF16", "FP16"))
    """Format of the vectors."""
    refine: bool = setting(False)
    """Keep a finer copy as well, to look at the best twice."""
    refine_type: str | None = setting(None, choices=_REFINE_TYPES)
    """Format of the finer copy."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        params = super().search_params(wanted, effort)
        return params | ({"refine_k": refinement(effort)} if self.refine else {})


@dataclass(frozen=True, kw_only=True)
class HnswPq(Hnsw):
    """As `HNSW`, with `nbits` for each of `m` pieces of a vector."""

    type = "HNSW_PQ"
    exact_scores = False
    m: int | None = setting(None, least=1, most=65_536)
    """Pieces of a vector; must divide its size. Default: an eighth of the size."""
    nbits: int = setting(8, least=1, most=24)
    """Bits of a piece."""
    refine: bool = setting(True)
    """Keep a finer copy as well, to look at the best twice."""
    refine_type: str | None = setting("SQ8", choices=_REFINE_TYPES)
    """Format of the finer copy."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        params = super().search_params(wanted, effort)
        return params | ({"refine_k": refinement(effort)} if self.refine else {})


@dataclass(frozen=True, kw_only=True)
class HnswPrq(HnswPq):
    """As `HNSW_PQ`, with the rest of each piece coded again, `nrq` times."""

    type = "HNSW_PRQ"
    nrq: int = setting(2, least=1, most=16)
    """Codes of a piece."""


@dataclass(frozen=True, kw_only=True)
class Diskann(VectorIndex):
    """A graph on an NVMe disk with a compressed copy in memory: about an eighth of the memory.

    What is None is left to the server's own settings.
    """

    type = "DISKANN"
    max_degree: int | None = setting(None, least=1, most=512)
    """Neighbours of a vector in the graph; Milvus takes 56."""
    search_list_size: int | None = setting(None, least=1, most=_LARGE)
    """Candidates for these while building; Milvus takes 100."""
    pq_code_budget_gb_ratio: float | None = setting(None, least=0, most=0.25)
    """Size of the compressed copy against that of the vectors; Milvus takes 0.125."""
    search_cache_budget_gb_ratio: float | None = setting(None, least=0, most=0.3)
    """Size of the cache against that of the vectors; Milvus takes 0.1."""
    beam_width_ratio: float | None = setting(None, least=1, most=128)
    """Reads of the disk at once, a processor; Milvus takes 4."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"search_list": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class Aisaq(VectorIndex):
    """As `DISKANN`, with the compressed copy on the disk as well: Milvus 2.6.4."""

    type = "AISAQ"
    max_degree: int | None = setting(None, least=1, most=512)
    """Neighbours of a vector in the graph; Milvus takes 56."""
    search_list_size: int | None = setting(None, least=1, most=_LARGE)
    """Candidates for these while building; Milvus takes 100."""
    inline_pq: int | None = setting(None, least=-1, most=512)
    """Codes of neighbours that stand beside a vector; -1: as many as fit."""
    rearrange: bool | None = setting(None)
    """Lay codes that are read together beside each other."""
    num_entry_points: int | None = setting(None, least=1, most=_LARGE)
    """Places where a search may begin; Milvus takes 100."""
    disk_pq_code_budget_gb_ratio: float | None = setting(None, least=0, most=1)
    """Size of the compressed copy against that of the vectors; Milvus takes 0.25."""
    pq_cache_size: int | None = setting(None, least=0)
    """Bytes of memory for the compressed copy."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"search_list": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class GpuBruteForce(VectorIndex):
    """Every vector is compared, on a GPU."""

    type = "GPU_BRUTE_FORCE"
    exact_scores = True
    most_results = _GPU_RESULTS


@dataclass(frozen=True, kw_only=True)
class GpuIvfFlat(IvfFlat):
    """`IVF_FLAT` on a GPU."""

    type = "GPU_IVF_FLAT"
    most_results = _GPU_RESULTS
    cache_dataset_on_device: bool = setting(False)
    """Keep the vectors in the memory of the GPU."""


@dataclass(frozen=True, kw_only=True)
class GpuIvfPq(IvfPq):
    """`IVF_PQ` on a GPU."""

    type = "GPU_IVF_PQ"
    most_results = _GPU_RESULTS
    nbits: int = setting(8, least=4, most=8)
    """Bits of a piece."""
    cache_dataset_on_device: bool = setting(False)
    """Keep the vectors in the memory of the GPU."""


@dataclass(frozen=True, kw_only=True)
class GpuCagra(VectorIndex):
    """A graph built on a GPU, which takes 1.8 times the memory of the vectors there."""

    type = "GPU_CAGRA"
    most_results = _GPU_RESULTS
    intermediate_graph_degree: int = setting(128, least=1, most=4_096)
    """Neighbours of a vector before the graph is thinned."""
    graph_degree: int = setting(64, least=1, most=4_096)
    """Neighbours of a vector in the graph."""
    build_algo: str = setting("IVF_PQ", choices=("IVF_PQ", "NN_DESCENT"))
    """How the first graph is found."""
    cache_dataset_on_device: bool = setting(False)
    """Keep the vectors in the memory of the GPU."""
    adapt_for_cpu: bool = setting(False)
    """Search on processors, as in an HNSW: Milvus 2.6.1."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        kept = width(wanted, effort)
        return {"ef": kept} if self.adapt_for_cpu else {"itopk_size": min(kept, 2_048)}


@dataclass(frozen=True, kw_only=True)
class Faiss(VectorIndex):
    """Any index that the library faiss can spell: Milvus 3.0."""

    type = "FAISS"
    faiss_index_name: str = setting("OPQ16,IVF64,PQ16x4")
    """As `faiss.index_factory` takes it."""


INDEX_TYPES: Mapping[str, type[VectorIndex]] = {
    kind.type: kind
    for kind in (
        Flat, Auto, IvfFlat, IvfSq8, IvfPq, IvfRabitq, Scann, Hnsw, HnswSq, HnswPq, HnswPrq,
        Diskann, Aisaq, GpuBruteForce, GpuIvfFlat, GpuIvfPq, GpuCagra, Faiss,
    )
}  # fmt: skip
"""Milvus's name of an index type -> its settings."""
