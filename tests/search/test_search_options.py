import pytest

from coca.core.errors import ArgumentError, ConfigError
from coca.search.search_options import QueryOptions, Ranking, SearchOptions


def test_a_search_by_vectors_has_no_options_of_queries() -> None:
    with pytest.raises(ConfigError, match="rerank = 5 is unknown"):
        SearchOptions(rerank=5)  # type: ignore[call-arg]


def test_a_ranking_is_of_hybrid_searches() -> None:
    message = r"a ranking \(captions all\) is of hybrid searches, got hybrid false"
    with pytest.raises(ArgumentError, match=message):
        QueryOptions(hybrid=False, ranking=Ranking(captions="all"))


def test_a_page_is_within_the_results() -> None:
    SearchOptions(limit=60, offset=40).check_page(100)
    with pytest.raises(ArgumentError, match="must add up to at most 100, got 60 and 41"):
        SearchOptions(limit=60, offset=41).check_page(100)
