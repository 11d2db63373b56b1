"""Index types of Milvus for float vectors, with validated parameters.

Ranges and defaults are those of Milvus 2.6 and 3.0 and of Knowhere, its index library. The default
graph is smaller: on 100,000 vectors, M=16 has the recall of brute force.
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
    """Brute-force search: exact, suitable for tens of thousands of vectors."""

    type = "FLAT"
    exact_scores = True


@dataclass(frozen=True, kw_only=True)
class Auto(VectorIndex):
    """Index type chosen by the server; on Zilliz Cloud the only choice."""

    type = "AUTOINDEX"

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`; servers with HNSW read `ef`, Zilliz Cloud reads `level`."""
        level = min(max(round(effort), 1), 10)
        return {"level": level, "ef": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class IvfFlat(VectorIndex):
    """Inverted file index: `nlist` clusters, of which a search probes some."""

    type = "IVF_FLAT"
    exact_scores = True
    nlist: int = setting(128, least=1, most=65_536)
    """Number of clusters; about 4 times the square root of the number of vectors."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"nprobe": heaps(self.nlist, effort)}


@dataclass(frozen=True, kw_only=True)
class IvfSq8(IvfFlat):
    """`IVF_FLAT` with scalar quantization to 8 bits a number: a quarter of the memory."""

    type = "IVF_SQ8"
    exact_scores = False


@dataclass(frozen=True, kw_only=True)
class IvfPq(IvfFlat):
    """`IVF_FLAT` with product quantization: `nbits` for `m` subvectors, 8 to 32 times smaller."""

    type = "IVF_PQ"
    exact_scores = False
    m: int | None = setting(None, least=1, most=65_536)
    """Number of subvectors; must divide the vector size. Default: an eighth of the size."""
    nbits: int = setting(8, least=1, most=24)
    """Bits of a subvector code."""


@dataclass(frozen=True, kw_only=True)
class IvfRabitq(IvfFlat):
    """`IVF_FLAT` with RaBitQ (one bit a number) and refinement: from Milvus 2.6."""

    type = "IVF_RABITQ"
    exact_scores = False
    refine: bool = setting(True)
    """Store finer vectors for refinement; without them the recall is at most about 0.75."""
    refine_type: str = setting("SQ8", choices=_REFINE_TYPES)
    """Format of the finer vectors."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        params = super().search_params(wanted, effort) | {"rbq_query_bits": 0}
        return params | ({"refine_k": refinement(effort)} if self.refine else {})


@dataclass(frozen=True, kw_only=True)
class Scann(IvfFlat):
    """`IVF_PQ` with 4 bits a subvector for SIMD (ScaNN), and refinement of the best candidates."""

    type = "SCANN"
    exact_scores = False
    with_raw_data: bool = setting(True)
    """Store the vectors, for refinement."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        looked_at_twice = width(wanted, 4 * effort, most=MAX_RESULTS)
        return super().search_params(wanted, effort) | {"reorder_k": looked_at_twice}


@dataclass(frozen=True, kw_only=True)
class Hnsw(VectorIndex):
    """HNSW graph: the best recall for its latency, if everything fits into memory."""

    type = "HNSW"
    exact_scores = True
    M: int = setting(16, least=2, most=2_048)
    """Neighbours of a vector in the graph."""
    ef_construction: int = setting(200, least=1, most=_LARGE, name="efConstruction")
    """Candidates for these during the build."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"ef": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class HnswSq(Hnsw):
    """`HNSW` with scalar quantization: a quarter of the memory, and hardly less recall."""

    type = "HNSW_SQ"
    exact_scores = False
    sq_type: str = setting("SQ8", choices=("SQ4U", "SQ6", "SQ8", "BF16", "FP16"))
    """Format of the vectors."""
    refine: bool = setting(False)
    """Store finer vectors as well, for refinement."""
    refine_type: str | None = setting(None, choices=_REFINE_TYPES)
    """Format of the finer vectors."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        params = super().search_params(wanted, effort)
        return params | ({"refine_k": refinement(effort)} if self.refine else {})


@dataclass(frozen=True, kw_only=True)
class HnswPq(Hnsw):
    """`HNSW` with product quantization, `nbits` for each of `m` subvectors."""

    type = "HNSW_PQ"
    exact_scores = False
    m: int | None = setting(None, least=1, most=65_536)
    """Number of subvectors; must divide the vector size. Default: an eighth of the size."""
    nbits: int = setting(8, least=1, most=24)
    """Bits of a subvector code."""
    refine: bool = setting(True)
    """Store finer vectors as well, for refinement."""
    refine_type: str | None = setting("SQ8", choices=_REFINE_TYPES)
    """Format of the finer vectors."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        params = super().search_params(wanted, effort)
        return params | ({"refine_k": refinement(effort)} if self.refine else {})


@dataclass(frozen=True, kw_only=True)
class HnswPrq(HnswPq):
    """`HNSW_PQ` with residual quantization of each subvector, `nrq` times."""

    type = "HNSW_PRQ"
    nrq: int = setting(2, least=1, most=16)
    """Codes of a subvector."""


@dataclass(frozen=True, kw_only=True)
class Diskann(VectorIndex):
    """DiskANN: graph on an NVMe disk, compressed vectors in an eighth of the memory.

    For parameters that are None, the server uses its own defaults.
    """

    type = "DISKANN"
    max_degree: int | None = setting(None, least=1, most=512)
    """Neighbours of a vector in the graph; default of Milvus: 56."""
    search_list_size: int | None = setting(None, least=1, most=_LARGE)
    """Candidates for these during the build; default of Milvus: 100."""
    pq_code_budget_gb_ratio: float | None = setting(None, least=0, most=0.25)
    """Size of the compressed vectors relative to the vectors; default of Milvus: 0.125."""
    search_cache_budget_gb_ratio: float | None = setting(None, least=0, most=0.3)
    """Size of the cache relative to the vectors; default of Milvus: 0.1."""
    beam_width_ratio: float | None = setting(None, least=1, most=128)
    """Concurrent disk reads a CPU; default of Milvus: 4."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"search_list": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class Aisaq(VectorIndex):
    """`DISKANN` with the compressed vectors on disk as well: from Milvus 2.6.4."""

    type = "AISAQ"
    max_degree: int | None = setting(None, least=1, most=512)
    """Neighbours of a vector in the graph; default of Milvus: 56."""
    search_list_size: int | None = setting(None, least=1, most=_LARGE)
    """Candidates for these during the build; default of Milvus: 100."""
    inline_pq: int | None = setting(None, least=-1, most=512)
    """Codes of neighbours stored with a vector; -1: as many as fit."""
    rearrange: bool | None = setting(None)
    """Store codes that are read together contiguously."""
    num_entry_points: int | None = setting(None, least=1, most=_LARGE)
    """Entry points of a search; default of Milvus: 100."""
    disk_pq_code_budget_gb_ratio: float | None = setting(None, least=0, most=1)
    """Size of the compressed vectors relative to the vectors; default of Milvus: 0.25."""
    pq_cache_size: int | None = setting(None, least=0)
    """Memory for the compressed vectors, in bytes."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        return {"search_list": width(wanted, effort)}


@dataclass(frozen=True, kw_only=True)
class GpuBruteForce(VectorIndex):
    """Brute-force search on a GPU."""

    type = "GPU_BRUTE_FORCE"
    exact_scores = True
    most_results = _GPU_RESULTS


@dataclass(frozen=True, kw_only=True)
class GpuIvfFlat(IvfFlat):
    """`IVF_FLAT` on a GPU."""

    type = "GPU_IVF_FLAT"
    most_results = _GPU_RESULTS
    cache_dataset_on_device: bool = setting(False)
    """Cache the vectors in GPU memory."""


@dataclass(frozen=True, kw_only=True)
class GpuIvfPq(IvfPq):
    """`IVF_PQ` on a GPU."""

    type = "GPU_IVF_PQ"
    most_results = _GPU_RESULTS
    nbits: int = setting(8, least=4, most=8)
    """Bits of a subvector code."""
    cache_dataset_on_device: bool = setting(False)
    """Cache the vectors in GPU memory."""


@dataclass(frozen=True, kw_only=True)
class GpuCagra(VectorIndex):
    """CAGRA graph built on a GPU, which needs 1.8 times the memory of the vectors."""

    type = "GPU_CAGRA"
    most_results = _GPU_RESULTS
    intermediate_graph_degree: int = setting(128, least=1, most=4_096)
    """Neighbours of a vector before the graph is pruned."""
    graph_degree: int = setting(64, least=1, most=4_096)
    """Neighbours of a vector in the graph."""
    build_algo: str = setting("IVF_PQ", choices=("IVF_PQ", "NN_DESCENT"))
    """Algorithm that builds the first graph."""
    cache_dataset_on_device: bool = setting(False)
    """Cache the vectors in GPU memory."""
    adapt_for_cpu: bool = setting(False)
    """Search on CPUs, as in HNSW: from Milvus 2.6.1."""

    def search_params(self, wanted: int, effort: float) -> dict[str, Any]:
        """See `VectorIndex`."""
        kept = width(wanted, effort)
        return {"ef": kept} if self.adapt_for_cpu else {"itopk_size": min(kept, 2_048)}


@dataclass(frozen=True, kw_only=True)
class Faiss(VectorIndex):
    """Any index of `faiss.index_factory`: from Milvus 3.0."""

    type = "FAISS"
    faiss_index_name: str = setting("OPQ16,IVF64,PQ16x4")
    """Index description for `faiss.index_factory`."""


INDEX_TYPES: Mapping[str, type[VectorIndex]] = {
    kind.type: kind
    for kind in (
        Flat, Auto, IvfFlat, IvfSq8, IvfPq, IvfRabitq, Scann, Hnsw, HnswSq, HnswPq, HnswPrq,
        Diskann, Aisaq, GpuBruteForce, GpuIvfFlat, GpuIvfPq, GpuCagra, Faiss,
    )
}  # fmt: skip
"""Milvus name of an index type -> its class."""
