from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from coca.cli.collections.search import Field, On
from coca.core.errors import ArgumentError, ConfigError
from coca.search.records import Hit
from coca.search.search_options import GroupBy, SearchKeywords, SearchOptions, Side


def test_the_keywords_of_a_search_are_the_options_but_for_k() -> None:
    hints = get_type_hints(SearchOptions)
    options = {field.name: hints[field.name] for field in fields(SearchOptions)}
    assert get_type_hints(SearchKeywords) == {
        name: hint for name, hint in options.items() if name != "k"
    }


def test_the_choices_of_the_command_are_those_of_the_options() -> None:
    assert tuple(On) == get_args(Side)
    assert tuple(Field) == get_args(GroupBy)


def test_an_unknown_option_is_rejected_with_the_nearest_name() -> None:
    unknown: dict[str, Any] = {"of_set": 2}
    with pytest.raises(ConfigError, match="search has no option 'of_set'; did you mean 'offset'"):
        SearchOptions.of(**unknown)


@pytest.mark.parametrize(
    ("k", "offset", "message"),
    [
        (0, 0, "k=0 with offset=0: k is at least 1"),
        (1, -1, "k=1 with offset=-1"),
        (60, 41, "both together at most 100"),
    ],
)
def test_a_page_is_within_the_results(k: int, offset: int, message: str) -> None:
    SearchOptions(k=60, offset=40).check_page(100)
    with pytest.raises(ArgumentError, match=message):
        SearchOptions(k=k, offset=offset).check_page(100)


def test_a_minimum_score_removes_hits_below_it() -> None:
    hits = [
        Hit(id=str(score), score=score, path="", caption="", metadata={})
        for score in (0.9, 0.5, 0.1)
    ]
    assert SearchOptions().keep_similar([hits]) == [hits]
    assert SearchOptions(min_score=0.5).keep_similar([hits, []]) == [hits[:2], []]
