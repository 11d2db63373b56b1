import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from coca.core.errors import ConfigError
from coca.core.files.table_file import TABLE_SUFFIXES, Column, check_table_path, write_table

VECTORS = np.array([[0.1, -2.5e-9], [1 / 3, 4]], np.float32)
COLUMNS: dict[str, Column] = {
    "path": ["a,b.png", 'x "y"\nz.png'],
    "rank": [1, 2],
    "vector": VECTORS,
}


def from_csv(path: Path) -> list[dict[str, object]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                "path": row["path"],
                "rank": int(row["rank"]),
                "vector": [float(row["vector_0"]), float(row["vector_1"])],
            }
            for row in csv.DictReader(file)
        ]


def from_json_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def from_parquet(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = parquet.read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("suffix", "read"),
    [(".csv", from_csv), (".jsonl", from_json_lines), (".parquet", from_parquet)],
)
def test_each_format_is_read_as_it_was_written(
    tmp_path: Path, suffix: str, read: Callable[[Path], list[dict[str, object]]]
) -> None:
    path = tmp_path / f"table{suffix}"
    check_table_path(path)
    write_table(path, COLUMNS)
    rows = read(path)
    assert [row["path"] for row in rows] == COLUMNS["path"]
    assert [row["rank"] for row in rows] == COLUMNS["rank"]
    # float32 comes back exactly, however its digits are written.
    assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), VECTORS)


def test_numbers_are_written_with_the_fewest_digits(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", COLUMNS)
    assert "0.1,-2.5e-09" in (tmp_path / "x.csv").read_text()


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_a_file_name_that_is_not_utf_8_can_be_written(tmp_path: Path, suffix: str) -> None:
    write_table(tmp_path / f"x{suffix}", {"path": ["\udcff.png"]})
    assert (tmp_path / f"x{suffix}").stat().st_size > 0


def test_other_suffixes_and_folders_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in .csv, .jsonl or .parquet, such as x.csv"):
        check_table_path(Path("x.xlsx"))
    with pytest.raises(ConfigError, match=r"must end in .npy, .csv.* such as x.npy"):
        check_table_path(Path("x"), others=[".npy"])
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check_table_path(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_path_without_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is a folder; give a file, such as .*out\.csv$"):
        check_table_path(Path(name))
