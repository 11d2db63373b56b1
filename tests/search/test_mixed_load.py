from collections.abc import Callable

import pytest

from coca.search.milvus.collection import Collection
from concurrent_load import run_load


@pytest.mark.slow
def test_searches_and_writes_at_once_lose_nothing_and_never_answer_wrongly(
    make_index: Callable[..., Collection], fresh: str
) -> None:
    load = run_load(
        lambda: make_index(collection=fresh),
        rows=300,
        searches=50,
        write_pause_s=0.1,
        search_pause_s=0.05,
    )
    assert load.faults == []
    assert load.removed > 0
