"""Table files of results: CSV, JSON lines and Parquet, by suffix.

Dimensions: N rows, D numbers of a vector.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.core.files.atomic import write_atomic

Column: TypeAlias = Sequence[Any] | np.ndarray

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")


def check_table_path(path: Path, *, others: Sequence[str] = ()) -> None:
    """Check that a table can be written to a path, before the work for its rows."""
    suffixes = (*others, *TABLE_SUFFIXES)
    if not path.name:  # of "", "." and "/"
        raise ConfigError(f"{path} is a folder; give a file, such as {path / 'out'}{suffixes[0]}")
    if path.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}, such as "
            f"{path.with_suffix(suffixes[0])}"
        )
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a file, such as {path / 'out'}{path.suffix}")
    if path.suffix.lower() == ".parquet":
        require("pyarrow", extra="data")


def write_table(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns of equal length to a table file, atomically.

    A column of vectors, an array of N x D numbers, is a list in JSON lines and Parquet, and D
    columns `NAME_0` to `NAME_{D-1}` in CSV. CSV begins with a line of the column names.
    """
    match path.suffix.lower():
        case ".csv":
            data = _as_csv(columns)
        case ".jsonl":
            names = list(columns)
            rows = zip(*map(_plain, columns.values()), strict=True)
            lines = (json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
            data = "".join(lines).encode()
        case suffix:
            assert suffix == ".parquet", "check_table_path comes first"
            data = _as_parquet(columns)
    write_atomic(path, data)


def _as_csv(columns: Mapping[str, Column]) -> bytes:
    header: list[str] = []
    cells: list[Column] = []
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            header += [f"{name}_{number}" for number in range(values.shape[1])]
            cells += list(values.T)
        else:
            header.append(name)
            cells.append(values)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(header)
    writer.writerows(zip(*map(_plain, cells), strict=True))
    # A file name need not be UTF-8, and its bytes are kept.
    return stream.getvalue().encode(errors="surrogateescape")


def _as_parquet(columns: Mapping[str, Column]) -> bytes:
    arrow = require("pyarrow", extra="data")
    parquet = require("pyarrow.parquet", extra="data")
    arrays = {name: arrow.array(_for_arrow(values)) for name, values in columns.items()}
    stream = io.BytesIO()
    parquet.write_table(arrow.table(arrays), stream, compression="zstd")
    return stream.getvalue()


def _for_arrow(values: Column) -> Column:
    """Convert a matrix to its rows, and text to UTF-8."""
    if isinstance(values, np.ndarray):
        return list(values) if values.ndim == 2 else values
    return [
        value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for value in values
    ]


def _plain(values: Column) -> Sequence[Any]:
    """Convert an array to numbers of Python; float32 to the shortest that is read as the same."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype == np.float32:
        values = values.astype(str).astype(np.float64)
    return values.tolist()
