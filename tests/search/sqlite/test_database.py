from pathlib import Path

import pytest

from coca.core.cancellation import cancelled_by
from coca.core.errors import SearchError
from coca.search.sqlite.database import Database


def test_a_query_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    def check() -> None:
        raise SearchError("nobody waits")

    database = Database(str(tmp_path / "a.db"), create=True, timeout_s=1.0)
    with (
        pytest.raises(SearchError, match="nobody waits"),
        cancelled_by(check),
        database.reading() as connection,
    ):
        connection.execute(endless)
    with database.reading() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    database.close()
    # The page size in the header, by the format of SQLite.
    assert (tmp_path / "a.db").read_bytes()[16:18] == (8_192).to_bytes(2, "big")
