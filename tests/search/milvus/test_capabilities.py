import pytest

from coca.core.errors import SearchError
from coca.search.milvus.connection import capabilities_of


def test_what_came_with_which_version() -> None:
    assert not capabilities_of("v2.3.5").several_vectors
    assert capabilities_of("v2.4.0").several_vectors
    assert capabilities_of("v2.10.1").several_vectors


def test_lite_is_distinguished_from_the_server_of_a_pip_package() -> None:
    lite = capabilities_of("milvus_lite-3.2.2", "pictures.db")
    assert (lite.lite, lite.several_vectors, lite.name) == (True, True, "Milvus Lite 3.2")
    assert not capabilities_of("v2.3.5-lite").lite


def test_zilliz_cloud_is_known_by_its_address() -> None:
    assert capabilities_of("v2.6.4", "https://in01-x.aws-us-west-2.zillizcloud.com:443").cloud
    assert not capabilities_of("v2.6.4", "http://localhost:19530").cloud


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
