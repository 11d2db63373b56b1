import logging
from typing import Any

import pytest

from coca.core.errors import SearchError
from coca.search.index_params.index_types import INDEX_TYPES
from coca.search.index_params.vector_index import (
    VectorIndex,
    capabilities_of,
    choose_index,
    index_of,
    parse_index,
)
from coca.search.vector_encoding import Precision
from index_types_page import PAGE, page

LITE = capabilities_of("milvus_lite-3.2.2")
OLD, NEW = capabilities_of("v2.3.5"), capabilities_of("v3.0.0")
EVERY = pytest.mark.parametrize("name", sorted(INDEX_TYPES))
FLOATS = sorted(name for name, row in INDEX_TYPES.items() if "float32" in row.precisions)


@EVERY
def test_every_type_is_parsed_from_its_own_text(name: str) -> None:
    index = VectorIndex(name)
    assert parse_index(str(index)) == index
    assert parse_index(name.lower()) == index


@EVERY
def test_every_type_is_parsed_from_the_description_of_milvus(name: str) -> None:
    index = VectorIndex(name)
    params = index.build_params(512)
    for description in (
        {"index_type": name, "params": params},
        {"index_type": name, "params": {"params": params}},
        {"index_type": name, **{key: str(value) for key, value in params.items()}},
    ):
        assert index_of(description).build_params(512) == params


@EVERY
def test_more_effort_never_looks_at_less(name: str) -> None:
    index = VectorIndex(name)
    for little, much in ((0.5, 1.0), (1.0, 4.0), (4.0, 1e9)):
        less, more = index.search_params(10, little), index.search_params(10, much)
        assert less.keys() == more.keys()
        assert all(less[key] <= more[key] for key in less)
    # A graph cannot return more results than candidates.
    widths = {"ef", "search_list", "itopk_size", "reorder_k"} & index.search_params(500, 0.1).keys()
    assert all(index.search_params(500, 0.1)[key] >= 500 for key in widths)


@EVERY
def test_booleans_are_sent_as_words_in_small_letters(name: str) -> None:
    values = VectorIndex(name).build_params(512).values()
    assert not any(isinstance(value, bool) or value in ("True", "False") for value in values)


@EVERY
def test_every_parameter_accepts_its_limits_and_rejects_values_outside(name: str) -> None:
    for param in INDEX_TYPES[name].build:
        right: list[Any] = [param.default, param.low, param.high, *param.choices]
        for value in (one for one in right if one is not None):
            assert VectorIndex(name, {param.name: value}).params[param.name] == value
        wrong: list[Any] = [] if param.low is None else [param.low - 1, float("nan")]
        wrong += [] if param.high is None else [param.high + 1]
        wrong += ["nonsense"] if param.choices or param.kind is bool else []
        for value in wrong:
            with pytest.raises(SearchError, match=f"{param.name} of {name} must be .*, got "):
                VectorIndex(name, {param.name: value})
            with pytest.raises(SearchError, match=f"{param.name} of {name} must be .*, got "):
                parse_index(f"{name}:{param.name}={value}")


@EVERY
def test_rows_of_the_table_refer_to_each_other_and_end_at_a_type_of_the_first_server(
    name: str,
) -> None:
    first = capabilities_of("v2.3.5-lite").indexes
    spec, seen = INDEX_TYPES[name], [name]
    assert name in first or spec.next_best
    while spec.next_best:
        assert spec.loss
        spec = INDEX_TYPES[spec.next_best]
        assert spec.name not in seen
        seen.append(spec.name)
    assert spec.name in first
    switches = {param.only_if.removeprefix("!") for param in INDEX_TYPES[name].search} - {""}
    assert switches <= {param.name for param in INDEX_TYPES[name].build if param.kind is bool}


def test_the_page_of_index_types_equals_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run tests/index_types_page.py"


def test_all_indexes_of_milvus_are_known() -> None:
    every = set().union(*(capabilities_of(v).indexes for v in ("v2.3.0", "v2.4.0", "v3.0.0")))
    assert every | LITE.indexes == set(INDEX_TYPES)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("HNWS", "no index type 'HNWS': did you mean 'HNSW'?"),
        ("HNSW:m=8", r"HNSW has no setting 'm=8': known: M, efConstruction|did you mean 'M'"),
        ("HNSW:M", "HNSW has no setting 'M'"),
        ("HNSW:M=many", "M of HNSW must be a whole number, 2 to 2,048, got 'many'"),
        ("HNSW:M=1", "M of HNSW must be a whole number, 2 to 2,048, got 1"),
        ("IVF_RABITQ:refine=yes", "refine of IVF_RABITQ must be true or false, got 'yes'"),
        ("HNSW_SQ:sq_type=SQ9", "sq_type of HNSW_SQ must be SQ4U, .*, got 'SQ9'"),
        ("MINHASH_LSH", "MINHASH_LSH is for sets of hashes; CoCa's vectors are dense"),
        ("SPARSE_INVERTED_INDEX", "SPARSE_INVERTED_INDEX is for words"),
    ],
)
def test_a_wrong_index_is_an_error_that_lists_what_is_allowed(text: str, fault: str) -> None:
    with pytest.raises(SearchError, match=fault):
        parse_index(text)


def test_settings_are_read_by_their_names_in_milvus() -> None:
    assert parse_index(" hnsw : M=32 , efConstruction=100") == VectorIndex(
        "HNSW", {"M": 32, "efConstruction": 100}
    )
    faiss = parse_index("FAISS:faiss_index_name=OPQ16,IVF64,PQ16x4")
    assert faiss.build_params(64) == {"faiss_index_name": "OPQ16,IVF64,PQ16x4"}


def test_pieces_must_divide_the_vector() -> None:
    assert VectorIndex("IVF_PQ").build_params(512)["m"] == 64
    assert VectorIndex("IVF_PQ").build_params(20)["m"] == 2
    assert VectorIndex("IVF_PQ", {"m": 32}).build_params(512)["m"] == 32
    with pytest.raises(SearchError, match=r"m of IVF_PQ must divide .* got 30; .*: 16, 32"):
        VectorIndex("IVF_PQ", {"m": 30}).build_params(512)


def test_what_can_be_built_is_taken_as_it_is() -> None:
    wanted = VectorIndex("HNSW", {"M": 8})
    for capabilities in (LITE, OLD, NEW):
        assert choose_index(wanted, capabilities) is wanted
        assert choose_index(None, capabilities) == VectorIndex("HNSW")


@pytest.mark.parametrize("name", FLOATS)
def test_lite_takes_what_comes_closest_and_warns(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = VectorIndex(name)
    with caplog.at_level(logging.WARNING):
        taken = choose_index(wanted, LITE)
    assert taken.type in LITE.indexes
    assert (taken is wanted) == (not caplog.messages) == (name in LITE.indexes)
    if taken is not wanted:
        assert f"cannot build {name}: {taken.type} is built instead, so " in caplog.text


@pytest.mark.parametrize(
    ("precision", "default"), [("float32", "HNSW"), ("int8", "HNSW"), ("binary", "BIN_FLAT")]
)
def test_each_precision_has_a_default_index(precision: Precision, default: str) -> None:
    assert choose_index(None, NEW, precision=precision) == VectorIndex(default)
    assert precision in INDEX_TYPES[default].precisions


def test_an_index_of_another_precision_is_refused() -> None:
    fault = "HNSW indexes float32 and int8 vectors, and these are binary; allowed: BIN_FLAT, BIN_IV"
    with pytest.raises(SearchError, match=fault):
        choose_index(VectorIndex("HNSW"), OLD, precision="binary")
    with pytest.raises(SearchError, match="IVF_PQ indexes float32 vectors, and these are int8"):
        choose_index(VectorIndex("IVF_PQ"), NEW, precision="int8")


def test_what_comes_closest_keeps_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_index(parse_index("IVF_PQ:nlist=64"), LITE) == parse_index("IVF_SQ8:nlist=64")
    assert choose_index(parse_index("HNSW_PRQ:M=9"), LITE).build_params(16)["M"] == 9


def test_a_server_gets_no_other_settings_by_default(caplog: pytest.LogCaptureFixture) -> None:
    wanted = parse_index("HNSW_SQ")
    with pytest.raises(SearchError, match=r"Milvus 2\.3 cannot build HNSW_SQ.*HNSW comes closest"):
        choose_index(wanted, OLD)
    assert choose_index(wanted, OLD, fallback=True) == VectorIndex("HNSW")
    with pytest.raises(SearchError, match=r"Milvus Lite 3\.2 cannot build DISKANN"):
        choose_index(parse_index("DISKANN"), LITE, fallback=False)


def test_zilliz_cloud_chooses_itself() -> None:
    cloud = capabilities_of("v2.6.4", "https://x.zillizcloud.com")
    assert choose_index(None, cloud).type == "AUTOINDEX"
    assert choose_index(VectorIndex("HNSW"), cloud, fallback=True).type == "AUTOINDEX"


def test_a_gpu_graph_for_processors_is_refused_where_it_is_not_known() -> None:
    wanted = parse_index("GPU_CAGRA:adapt_for_cpu=true")
    for version in ("v2.4.9", "v2.6.0"):
        older = capabilities_of(version)
        with pytest.raises(SearchError, match=r"no adapt_for_cpu; servers from 2\.6\.1"):
            choose_index(wanted, older)
        assert choose_index(wanted, older, fallback=True) == parse_index("GPU_CAGRA")
    assert choose_index(wanted, capabilities_of("v2.6.1")) == wanted
