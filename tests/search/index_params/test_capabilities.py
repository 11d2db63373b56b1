from itertools import pairwise

import pytest

from coca.core.errors import SearchError
from coca.search.index_params.vector_index import capabilities_of

IN_ORDER = ["v2.3.5", "v2.4.1", "2.5.18", "v2.6.0", "v2.6.14-gpu", "v3.0.0", "v3.7.1"]


def test_a_newer_server_loses_nothing() -> None:
    tables = [capabilities_of(version) for version in IN_ORDER]
    for older, newer in pairwise(tables):
        assert older.indexes <= newer.indexes
        assert older.vector_types <= newer.vector_types
        for ability in ("several_vectors", "partition_key", "shards", "replicas"):
            assert getattr(older, ability) <= getattr(newer, ability)


def test_what_came_with_which_version() -> None:
    assert not capabilities_of("v2.3.5").several_vectors
    assert capabilities_of("v2.4.0").several_vectors
    assert "HNSW_SQ" not in capabilities_of("v2.4.9").indexes
    assert {"HNSW_SQ", "HNSW_PQ"} <= capabilities_of("v2.5.0").indexes
    assert "AISAQ" not in capabilities_of("v2.6.3").indexes
    assert "AISAQ" in capabilities_of("v2.6.4").indexes
    assert "FAISS" in capabilities_of("v3.0.0").indexes


def test_lite_is_distinguished_from_the_server_of_a_pip_package() -> None:
    lite = capabilities_of("milvus_lite-3.2.2", "pictures.db")
    assert lite.lite
    assert not lite.shards
    packaged = capabilities_of("v2.3.5-lite")
    assert not packaged.lite
    assert capabilities_of("v2.3.5").indexes - packaged.indexes == {
        "DISKANN",
        "GPU_IVF_FLAT",
        "GPU_IVF_PQ",
    }


def test_zilliz_cloud_is_known_by_its_address() -> None:
    cloud = capabilities_of("v2.6.4", "https://in01-x.aws-us-west-2.vectordb.zillizcloud.com:443")
    assert cloud.cloud
    assert cloud.indexes == {"AUTOINDEX", "FLAT"}


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("v2.2.9", r"x is Milvus 2\.2; 2\.3 or newer is needed"),
        ("milvus_lite-2.5.1", r"x is kept by Milvus Lite 2\.5; 3\.2 or newer"),
        ("dev", "x reports no version of Milvus: 'dev'"),
    ],
)
def test_a_server_that_is_too_old_is_refused(version: str, fault: str) -> None:
    with pytest.raises(SearchError, match=fault):
        capabilities_of(version, "x")
