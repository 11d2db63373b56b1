import pytest

from coca.core.errors import SearchError
from coca.search.milvus.vector_index import VectorIndex, index_of, parse_index

INDEXES = [
    VectorIndex("FLAT"),
    VectorIndex("HNSW", {"M": 32, "efConstruction": 100}),
    VectorIndex("DISKANN", {"search_cache_budget_gb_ratio": 0.1}),
    VectorIndex("IVF_RABITQ", {"nlist": 64, "refine": True, "refine_type": "SQ8"}),
    VectorIndex("FAISS", {"faiss_index_name": "OPQ16,IVF64,PQ16x4", "nbits": 8}),
]
TYPES = ["FLAT", "AUTOINDEX", "IVF_SQ8", "SCANN", "HNSW_SQ", "DISKANN", "AISAQ", "GPU_CAGRA", "NEW"]


@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_an_index_is_read_from_its_text_and_from_descriptions_of_milvus(index: VectorIndex) -> None:
    assert parse_index(str(index)) == index
    rows = {"field_name": "vector", "index_name": "v", "state": "Finished", "total_rows": 3}
    for described in (
        {"params": index.params},
        {"params": {"params": index.params}},
        {name: str(value) for name, value in index.params.items()},
    ):
        assert (
            index_of({"index_type": index.type, "metric_type": "IP", **rows, **described}) == index
        )


def test_parameters_are_passed_on_with_their_names_and_types() -> None:
    index = VectorIndex.of("ivf_rabitq", ["nlist=64", "refine=true", "refine_type=SQ8", "ratio=.5"])
    assert index.type == "IVF_RABITQ"
    assert index.params == {"nlist": 64, "refine": "true", "refine_type": "SQ8", "ratio": 0.5}


@pytest.mark.parametrize("wrong", ["M", "M= ", "=32", "", "metric_type=L2"])
def test_a_parameter_needs_a_name_and_a_value(wrong: str) -> None:
    with pytest.raises(SearchError, match=f"KEY=VALUE.* got '{wrong}'|metric_type is not a para"):
        VectorIndex.of("HNSW", [wrong])
    with pytest.raises(SearchError, match="an index needs a type"):
        VectorIndex.of(" ")


@pytest.mark.parametrize("name", TYPES)
def test_more_effort_never_looks_at_less(name: str) -> None:
    index = VectorIndex(name, {"nlist": 1_024})
    for little, much in ((0.5, 1.0), (1.0, 4.0), (4.0, 1e9)):
        less, more = index.search_params(10, little), index.search_params(10, much)
        assert less.keys() == more.keys()
        assert all(less[key] <= more[key] for key in less)
    # A graph cannot return more results than candidates.
    wide = index.search_params(500, 0.1)
    widths = {"ef", "search_list"} & wide.keys()
    assert all(wide[key] >= 500 for key in widths)


def test_effort_sets_the_search_parameters_of_each_type() -> None:
    ivf = VectorIndex("IVF_FLAT", {"nlist": 1_024})
    assert VectorIndex("HNSW").search_params(10, 1.0) == {"ef": 64}
    assert VectorIndex("HNSW").search_params(100, 2.0) == {"ef": 400}
    assert [ivf.search_params(10, effort)["nprobe"] for effort in (0.5, 1.0, 1e6)] == [
        64,
        128,
        1_024,
    ]
    assert VectorIndex("SCANN").search_params(10, 1.0) == {"nprobe": 16}
    assert VectorIndex("DISKANN").search_params(100, 1.0) == {"search_list": 200}
    for type in ("FLAT", "GPU_CAGRA"):
        assert VectorIndex(type).search_params(10, 1.0) == {}
