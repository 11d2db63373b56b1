"""Table of the Milvus index types for dense vectors: parameters, effort, requirements, fallback.

Checks, messages, capabilities, the advisor and docs/reference/index-types.md follow from it. Ranges
and defaults are those of Milvus 2.6 and 3.0 and of Knowhere, its index library. The default graph
is smaller: on 100,000 vectors, M=16 has the recall of brute force.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from coca.core.errors import ArgumentError
from coca.search.vector_encoding import Precision

MAX_RESULTS = 16_384
"""Maximum `offset + k`: the limit of a Milvus server, applied on Lite as well."""

MAX_WIDTH = 8_192
"""Maximum number of search candidates, unless more results are wanted."""
_MIN_WIDTH = 64

Value: TypeAlias = bool | int | float | str | None
"""Value of a build parameter; None is not sent, so the server uses its own default."""

Version: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class BuildParam:
    """A build parameter of an index type, by its Milvus name."""

    name: str
    kind: type
    """`bool`, `int`, `float` or `str`."""
    default: Value
    about: str
    low: int | float | None = None
    """Minimum, inclusive; None: the value is not a number."""
    high: int | float | None = None
    """Maximum, inclusive; None: unlimited."""
    choices: tuple[str, ...] = ()
    divides: bool = False
    """The value must divide the vector size; None becomes its largest divisor up to an eighth."""
    since: Version = (0, 0, 0)
    """First server version that has the parameter."""
    without: str = ""
    """What is lost on an older server, after "so"."""

    @property
    def allowed(self) -> str:
        """The allowed values, for messages and documentation."""
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.low is None:
            return "a text"
        return (
            f"{self.low:,} to {self.high:,}" if self.high is not None else f"{self.low:,} or more"
        )

    def parse(self, text: str, index_type: str) -> Value:
        """Parse a value; `check` validates it."""
        if self.kind is bool:
            if text.lower() not in ("true", "false"):
                raise self._error(index_type, repr(text))
            return text.lower() == "true"
        try:
            value: Value = self.kind(text)
        except ValueError:
            raise self._error(index_type, repr(text)) from None
        return value

    def check(self, value: Value, index_type: str) -> None:
        """Validate a value."""
        if value is None and self.default is None:
            return
        numbers = (int, float) if self.kind is float else (self.kind,)
        if not isinstance(value, numbers) or (isinstance(value, bool) and self.kind is not bool):
            raise self._error(index_type, repr(value))
        if self.choices and value not in self.choices:
            raise self._error(index_type, repr(value))
        if self.low is not None and not isinstance(value, bool | str | None):
            high = float("inf") if self.high is None else self.high
            if not self.low <= value <= high:
                raise self._error(index_type, f"{value:,}")

    def to_milvus(self, value: Value, index_type: str, embed_dim: int) -> Value:
        """Return the value that is sent to Milvus for vectors of a size."""
        if self.divides:
            return _divisor(None if value is None else int(value), embed_dim, self.name, index_type)
        return as_text(value) if isinstance(value, bool) else value

    def _error(self, index_type: str, got: str) -> ArgumentError:
        number = {int: "a whole number, ", float: "a number, "}.get(self.kind, "")
        return ArgumentError(
            f"{self.name} of {index_type} must be {number}{self.allowed}, got {got}"
        )


@dataclass(frozen=True)
class EffortRule:
    """A search parameter as a function of build parameters, results wanted and effort."""

    formula: str
    """The function, for documentation: `k` results at `effort`."""
    compute: Callable[[Mapping[str, Any], int, float], int | float]


@dataclass(frozen=True)
class SearchParam:
    """A search parameter of an index type, by its Milvus name."""

    name: str
    rule: EffortRule
    only_if: str = ""
    """Build parameter that must be true, or false with a `!` in front; empty: always sent."""

    def applies(self, params: Mapping[str, Value]) -> bool:
        """Return whether an index of these build parameters has the search parameter."""
        switch = self.only_if.removeprefix("!")
        return not switch or bool(params[switch]) != self.only_if.startswith("!")


def as_text(value: Value) -> str:
    """Format a value as Milvus expects it: with "True", a server never finishes the build."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def width(wanted: int, effort: float, *, high: int = MAX_WIDTH) -> int:
    """Compute the number of candidates: twice the results, and at least 64, times the effort."""
    return max(min(int(max(_MIN_WIDTH, 2 * wanted) * effort), high), wanted)


def _probes(params: Mapping[str, Any], wanted: int, effort: float) -> int:
    nlist = params["nlist"]
    return min(max(int(max(nlist / 8, 8) * effort), 1), nlist)


WIDTH = EffortRule(
    "max(64, 2k) x effort, from k to 8,192", lambda params, wanted, effort: width(wanted, effort)
)
NARROW_WIDTH = EffortRule(
    "as `ef`, at most 2,048", lambda params, wanted, effort: min(width(wanted, effort), 2_048)
)
PROBES = EffortRule("max(nlist / 8, 8) x effort, from 1 to nlist", _probes)
REORDERED = EffortRule(
    "max(64, 2k) x 4 effort, from k to 16,384",
    lambda params, wanted, effort: width(wanted, 4 * effort, high=MAX_RESULTS),
)
REFINEMENT = EffortRule(
    "2 x effort, at least 1", lambda params, wanted, effort: max(2.0 * effort, 1.0)
)
LEVEL = EffortRule(
    "effort, rounded, from 1 to 10", lambda params, wanted, effort: min(max(round(effort), 1), 10)
)
UNQUANTIZED = EffortRule("0", lambda params, wanted, effort: 0)


def _divisor(given: int | None, embed_dim: int, name: str, index_type: str) -> int:
    if given is None:
        return max(m for m in range(1, max(embed_dim // 8, 1) + 1) if embed_dim % m == 0)
    if embed_dim % given:
        divisors = [m for m in range(1, embed_dim + 1) if embed_dim % m == 0]
        near = sorted(sorted(divisors, key=lambda m: abs(m - given))[:2])
        raise ArgumentError(
            f"{name} of {index_type} must divide the {embed_dim} numbers of a vector, got {given}; "
            f"near ones that do: {', '.join(map(str, near))}"
        )
    return given


@dataclass(frozen=True, kw_only=True)
class IndexType:
    """One index type: a row of the table."""

    name: str
    about: str
    build: tuple[BuildParam, ...] = ()
    search: tuple[SearchParam, ...] = ()
    exact_scores: bool = False
    """Whether scores are of the original vectors; otherwise of compressed vectors."""
    since: Version = (2, 3, 0)
    """First server version that has the type."""
    hardware: Literal["", "NVMe disk", "GPU"] = ""
    """What a server needs besides memory."""
    precisions: tuple[Precision, ...] = ("float32",)
    """Precisions of the vectors that it indexes."""
    lite: bool = False
    """Whether Milvus Lite has the type."""
    next_best: str = ""
    """Closest type, built where this type is unsupported; empty: AUTOINDEX."""
    loss: str = ""
    """Cost of `next_best`, as the end of a sentence."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics in every version that has the type; collections use IP on unit vectors."""
        if self.precisions == ("binary",):
            return ("HAMMING", "JACCARD")
        return ("IP", "L2") if self.hardware == "GPU" else ("COSINE", "IP", "L2")

    @property
    def max_results(self) -> int:
        """Maximum `offset + k`."""
        return 1_024 if self.hardware == "GPU" else MAX_RESULTS


_LARGE = 1_000_000
_QUARTER = "vectors take a quarter of their memory, and not an eighth or less"
_NO_GPU = "no GPU takes part"

NLIST = BuildParam(
    "nlist", int, 128, "Clusters; about 4 times the root of the number of vectors.", 1, 65_536
)
M = BuildParam("M", int, 16, "Neighbors of a vector in the graph.", 2, 2_048)
EF_CONSTRUCTION = BuildParam(
    "efConstruction", int, 200, "Candidates for the neighbors during the build.", 1, _LARGE
)
SUBVECTORS = BuildParam(
    "m", int, None, "Subvectors; default: an eighth of the vector size.", 1, 65_536, divides=True
)
NBITS = BuildParam("nbits", int, 8, "Bits of a subvector code.", 1, 24)
REFINE = BuildParam("refine", bool, True, "Store finer vectors as well, for refinement.")
REFINE_TYPE = BuildParam(
    "refine_type",
    str,
    "SQ8",
    "Format of the finer vectors.",
    choices=("SQ6", "SQ8", "FP16", "BF16", "FP32"),
)
SQ_TYPE = BuildParam(
    "sq_type", str, "SQ8", "Format of the vectors.", choices=("SQ4U", "SQ6", "SQ8", "BF16", "FP16")
)
MAX_DEGREE = BuildParam(
    "max_degree", int, None, "Neighbors of a vector in the graph; default of Milvus: 56.", 1, 512
)
SEARCH_LIST_SIZE = BuildParam(
    "search_list_size",
    int,
    None,
    "Candidates for the neighbors during the build; default of Milvus: 100.",
    1,
    _LARGE,
)
CACHE_ON_GPU = BuildParam(
    "cache_dataset_on_device", bool, False, "Cache the vectors in GPU memory."
)

EF = SearchParam("ef", WIDTH)
NPROBE = SearchParam("nprobe", PROBES)
SEARCH_LIST = SearchParam("search_list", WIDTH)
REFINE_K = SearchParam("refine_k", REFINEMENT, only_if="refine")


_ROWS = (
    IndexType(
        name="FLAT",
        about="Brute-force search: exact, suitable for tens of thousands of vectors.",
        exact_scores=True,
        lite=True,
    ),
    IndexType(
        name="AUTOINDEX",
        about="Index type chosen by the server; the default of Zilliz Cloud.",
        # Servers with HNSW read `ef`, Zilliz Cloud reads `level`.
        search=(SearchParam("level", LEVEL), EF),
        precisions=("float32", "int8"),
        lite=True,
    ),
    IndexType(
        name="IVF_FLAT",
        about="Inverted file index: `nlist` clusters, of which a search probes some.",
        build=(NLIST,),
        search=(NPROBE,),
        exact_scores=True,
        lite=True,
    ),
    IndexType(
        name="IVF_SQ8",
        about="`IVF_FLAT` with scalar quantization to 8 bits a number: a quarter of the memory.",
        build=(NLIST,),
        search=(NPROBE,),
        lite=True,
    ),
    IndexType(
        name="IVF_PQ",
        about="`IVF_FLAT` with product quantization, `nbits` for each of `m` subvectors: 8 to 32 "
        "times smaller.",
        build=(NLIST, SUBVECTORS, NBITS),
        search=(NPROBE,),
        next_best="IVF_SQ8",
        loss=_QUARTER,
    ),
    IndexType(
        name="IVF_RABITQ",
        about="`IVF_FLAT` with RaBitQ, one bit a number. Without `refine`, the recall is at most "
        "about 0.75.",
        build=(NLIST, REFINE, REFINE_TYPE),
        search=(NPROBE, SearchParam("rbq_query_bits", UNQUANTIZED), REFINE_K),
        since=(2, 6, 0),
        next_best="IVF_PQ",
        loss="vectors take a little more memory",
    ),
    IndexType(
        name="SCANN",
        about="`IVF_PQ` with 4 bits a subvector for SIMD (ScaNN), and refinement of the best "
        "candidates.",
        build=(NLIST, BuildParam("with_raw_data", bool, True, "Store the vectors for refinement.")),
        search=(NPROBE, SearchParam("reorder_k", REORDERED)),
        next_best="IVF_FLAT",
        loss="a search takes longer",
    ),
    IndexType(
        name="HNSW",
        about="HNSW graph: the best recall for its latency, if everything fits into memory.",
        build=(M, EF_CONSTRUCTION),
        search=(EF,),
        precisions=("float32", "int8"),
        exact_scores=True,
        lite=True,
    ),
    IndexType(
        name="HNSW_SQ",
        about="`HNSW` with scalar quantization: a quarter of the memory, and hardly less recall.",
        build=(
            *(M, EF_CONSTRUCTION, SQ_TYPE),
            *(replace(REFINE, default=False), replace(REFINE_TYPE, default=None)),
        ),
        search=(EF, REFINE_K),
        since=(2, 5, 0),
        lite=True,
        next_best="HNSW",
        loss="vectors take all of their memory",
    ),
    IndexType(
        name="HNSW_PQ",
        about="`HNSW` with product quantization, `nbits` for each of `m` subvectors.",
        build=(M, EF_CONSTRUCTION, SUBVECTORS, NBITS, REFINE, REFINE_TYPE),
        search=(EF, REFINE_K),
        since=(2, 5, 0),
        next_best="HNSW_SQ",
        loss=_QUARTER,
    ),
    IndexType(
        name="HNSW_PRQ",
        about="`HNSW_PQ` with residual quantization of each subvector, `nrq` times.",
        build=(
            *(M, EF_CONSTRUCTION, SUBVECTORS, NBITS, REFINE, REFINE_TYPE),
            BuildParam("nrq", int, 2, "Codes of a subvector.", 1, 16),
        ),
        search=(EF, REFINE_K),
        since=(2, 5, 0),
        next_best="HNSW_PQ",
        loss="vectors take a little more memory",
    ),
    IndexType(
        name="DISKANN",
        about="DiskANN: graph on an NVMe disk, compressed vectors in an eighth of the memory.",
        build=(
            MAX_DEGREE,
            SEARCH_LIST_SIZE,
            BuildParam(
                "pq_code_budget_gb_ratio",
                float,
                None,
                "Size of the codes relative to the vectors; default of Milvus: 0.125.",
                0,
                0.25,
            ),
            BuildParam(
                "search_cache_budget_gb_ratio",
                float,
                None,
                "Size of the cache relative to the vectors; default of Milvus: 0.1.",
                0,
                0.3,
            ),
            BuildParam(
                "beam_width_ratio",
                float,
                None,
                "Concurrent disk reads a CPU; default of Milvus: 4.",
                1,
                128,
            ),
        ),
        search=(SEARCH_LIST,),
        hardware="NVMe disk",
        next_best="HNSW",
        loss="all vectors must fit into memory",
    ),
    IndexType(
        name="AISAQ",
        about="`DISKANN` with the compressed vectors on disk as well.",
        build=(
            MAX_DEGREE,
            SEARCH_LIST_SIZE,
            BuildParam(
                "inline_pq",
                int,
                None,
                "Codes of neighbors stored with a vector; -1: as many as fit.",
                -1,
                512,
            ),
            BuildParam("rearrange", bool, None, "Store codes that are read together contiguously."),
            BuildParam(
                "num_entry_points",
                int,
                None,
                "Entry points of a search; default of Milvus: 100.",
                1,
                _LARGE,
            ),
            BuildParam(
                "disk_pq_code_budget_gb_ratio",
                float,
                None,
                "Size of the codes relative to the vectors; default of Milvus: 0.25.",
                0,
                1,
            ),
            BuildParam("pq_cache_size", int, None, "Cache of the compressed vectors, bytes.", 0),
        ),
        search=(SEARCH_LIST,),
        since=(2, 6, 4),
        hardware="NVMe disk",
        next_best="DISKANN",
        loss="the compressed copy must fit into memory",
    ),
    IndexType(
        name="GPU_BRUTE_FORCE",
        about="Brute-force search on a GPU.",
        exact_scores=True,
        since=(2, 4, 0),
        next_best="FLAT",
        hardware="GPU",
        loss=_NO_GPU,
    ),
    IndexType(
        name="GPU_IVF_FLAT",
        about="`IVF_FLAT` on a GPU.",
        build=(NLIST, CACHE_ON_GPU),
        search=(NPROBE,),
        exact_scores=True,
        next_best="IVF_FLAT",
        hardware="GPU",
        loss=_NO_GPU,
    ),
    IndexType(
        name="GPU_IVF_PQ",
        about="`IVF_PQ` on a GPU.",
        build=(NLIST, SUBVECTORS, replace(NBITS, low=4, high=8), CACHE_ON_GPU),
        search=(NPROBE,),
        next_best="IVF_PQ",
        hardware="GPU",
        loss=_NO_GPU,
    ),
    IndexType(
        name="GPU_CAGRA",
        about="CAGRA graph built on a GPU, which needs 1.8 times the memory of the vectors.",
        build=(
            BuildParam(
                "intermediate_graph_degree",
                int,
                128,
                "Neighbors of a vector before the graph is pruned.",
                1,
                4_096,
            ),
            BuildParam("graph_degree", int, 64, "Neighbors of a vector in the graph.", 1, 4_096),
            BuildParam(
                "build_algo",
                str,
                "IVF_PQ",
                "Algorithm that builds the first graph.",
                choices=("IVF_PQ", "NN_DESCENT"),
            ),
            CACHE_ON_GPU,
            BuildParam(
                "adapt_for_cpu",
                bool,
                False,
                "Search on CPUs, as in HNSW.",
                since=(2, 6, 1),
                without="searches by GPU_CAGRA need the GPU",
            ),
        ),
        search=(
            SearchParam("ef", WIDTH, only_if="adapt_for_cpu"),
            SearchParam("itopk_size", NARROW_WIDTH, only_if="!adapt_for_cpu"),
        ),
        since=(2, 4, 0),
        next_best="HNSW",
        hardware="GPU",
        loss=_NO_GPU,
    ),
    IndexType(
        name="FAISS",
        about="Any index of `faiss.index_factory`.",
        build=(
            BuildParam(
                "faiss_index_name", str, "OPQ16,IVF64,PQ16x4", "Name for `faiss.index_factory`."
            ),
        ),
        since=(3, 0, 0),
        next_best="HNSW",
        loss="faiss's own name is not used",
    ),
    IndexType(
        name="BIN_FLAT",
        about="Brute-force search of binary vectors: exact, 32 times less to read than `FLAT`.",
        precisions=("binary",),
    ),
    IndexType(
        name="BIN_IVF_FLAT",
        about="`IVF_FLAT` for binary vectors.",
        build=(NLIST,),
        search=(NPROBE,),
        precisions=("binary",),
    ),
)

INDEX_TYPES: Mapping[str, IndexType] = {row.name: row for row in _ROWS}
"""Milvus name of an index type -> its row."""
