"""Lazy tables: JSON lines, CSV, TSV and Parquet, with rows parsed on read."""

import csv
import hashlib
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

import numpy as np
from jaxtyping import Int64

from coca.core.annotations import parse_record, parse_text
from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.data.sources.source import PartConfig

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""File suffixes of tables."""

FREE_BYTES, MAX_EXPANSION = 256 << 20, 200
"""Memory limit of a Parquet file: a fixed part, bytes, plus bytes per byte of the file."""

Wanted: TypeAlias = Mapping[str, str | int | tuple[str | int, ...]]
"""Column names to the allowed value or values."""


@runtime_checkable
class Table(Protocol):
    """Random access to rows, parsed on read."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> Mapping[str, Any]:
        """Parse a row: column names to JSON values or bytes."""
        ...


def select(table: Table, where: Wanted, path: str) -> Table:
    """Filter rows by column values, which are compared as strings.

    A damaged row is kept, so that reading it reports the error.
    """
    if not where:
        return table
    wanted = {
        name: {str(it) for it in (value if isinstance(value, tuple) else (value,))}
        for name, value in where.items()
    }
    kept, found = [], {name: set[str]() for name in wanted}
    for number in range(len(table)):
        try:
            record = table.row(number)
        except DataError:
            kept.append(number)
            continue
        values = {name: str(record.get(name)) for name in wanted}
        for name, value in values.items():
            found[name].add(value)
        if all(value in wanted[name] for name, value in values.items()):
            kept.append(number)
    if not kept and len(table):
        there = "; ".join(f"{name} is {_listed(values)}" for name, values in found.items())
        raise ConfigError(f"no row of {path} fits where {dict(where)}; in its rows {there}")
    return _Selected(table, kept)


def part_of(table: Table, part: PartConfig | None, path: str) -> Table:
    """Select the rows of a hash split; damaged rows are kept, as in `select`."""
    if part is None:
        return table
    values: list[str | None] = []
    for number in range(len(table)):
        try:
            value = table.row(number).get(part.by)
        except DataError:
            values.append(None)
            continue
        if value is None:
            raise ConfigError(f"row {number} of {path} has no {part.by}, by which it is parted")
        values.append(str(value))
    different = sorted({it for it in values if it is not None}, key=_hash)
    first, last = (round(fraction * len(different)) for fraction in (part.start, part.end))
    wanted = {None, *different[first:last]}
    if len(wanted) == 1:
        raise ConfigError(
            f"the part {part.start} to {part.end} of {len(different)} different {part.by} in "
            f"{path} is empty"
        )
    return _Selected(table, [row for row, value in enumerate(values) if value in wanted])


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def _listed(values: set[str]) -> str:
    few = sorted(values)[:8]
    return " or ".join(few) + (" or another" if len(values) > len(few) else "")


def rows_of(table: Table) -> Int64[np.ndarray, " N"]:
    """Return the row numbers of a filtered table in the original table."""
    return table.rows if isinstance(table, _Selected) else np.arange(len(table), dtype=np.int64)


class _Selected:
    def __init__(self, table: Table, rows: Sequence[int]) -> None:
        self.rows = rows_of(table)[np.asarray(rows, np.int64)]
        self._table: Table = table._table if isinstance(table, _Selected) else table

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, number: int) -> Mapping[str, Any]:
        return self._table.row(int(self.rows[number]))


def open_table(content: bytes, path: str) -> Table:
    """Open a table from the content of a file; the suffix of `path` determines its format."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".jsonl", ".ndjson"):
        return _JsonLines(content, path)
    if suffix in (".csv", ".tsv"):
        return _Csv(content, path)
    if suffix == ".parquet":
        return _Parquet(content, path)
    raise DataError(
        f"{path} ends in {suffix or 'no suffix'}; a manifest is .jsonl, .csv, .tsv or .parquet",
        reason="unknown_kind",
    )


def numeric_columns(table: Table) -> dict[str, type[int] | type[float]]:
    """Infer the numeric columns of a CSV, whose values have no types.

    A column is numeric if all of its values are: integers such as `2018` or `-3`, or floats such as
    `0.5` or `1e-3` if any value has a point or exponent. Empty values are missing numbers. These
    stay text: columns with any other value, with leading zeros (`007`), with integers of more than
    15 digits (ids), and a column `time` of eight-digit dates (`20240531`). Other formats have typed
    values; for them the result is empty.
    """
    return table.numbers() if isinstance(table, _Csv) else {}


def as_number(value: str, kind: type[int] | type[float]) -> int | float | None:
    """Convert a value of a numeric column; None if it is empty."""
    return kind(value) if value else None


class _JsonLines:
    def __init__(self, content: bytes, path: str) -> None:
        self._content = content
        self._path = path
        # Only the byte spans of lines are kept; a `\r` before the line break is whitespace.
        breaks = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], breaks + 1])
        ends = np.concatenate([breaks, [len(content)]])
        spans = np.stack([starts, ends], axis=1)
        filled = [bool(content[start:end].strip()) for start, end in spans.tolist()]
        self._spans = spans[filled]

    def __len__(self) -> int:
        return len(self._spans)

    def row(self, number: int) -> Mapping[str, Any]:
        start, end = self._spans[number].tolist()
        return parse_record(self._content[start:end], f"row {number} of {self._path}")


class _Csv:
    def __init__(self, content: bytes, path: str) -> None:
        text = parse_text(content, path)
        first_line = text.partition("\n")[0]
        # Tabs are detected in the header, since such files often have the suffix .csv.
        delimiter = "\t" if "\t" in first_line and "," not in first_line else ","
        self._path = path
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            self._names = next(rows, [])
            self._rows = [row for row in rows if row]
        except csv.Error as error:
            raise DataError(f"{path} is not CSV: {error}", reason="bad_table") from error
        _refuse_twins([name for name in self._names if name], path)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Mapping[str, Any]:
        values = self._rows[number]
        if len(values) != len(self._names):
            raise DataError(
                f"row {number} of {self._path} has {len(values)} values for "
                f"{len(self._names)} columns",
                reason="bad_record",
            )
        return dict(zip(self._names, values, strict=True))

    def numbers(self) -> dict[str, type[int] | type[float]]:
        """Implement `numeric_columns`; damaged rows are ignored."""
        rows = [row for row in self._rows if len(row) == len(self._names)]
        kinds = {
            name: _number_kind((row[index] for row in rows), is_time=name == "time")
            for index, name in enumerate(self._names)
        }
        return {name: kind for name, kind in kinds.items() if kind is not None}


_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
_DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DAY = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")


def _number_kind(values: Iterable[str], *, is_time: bool) -> type[int] | type[float] | None:
    """Infer the number type of values; None if they are text."""
    kind: type[int] | type[float] | None = None
    are_days = is_time
    for value in values:
        if not value:
            continue
        if _WHOLE.fullmatch(value):
            kind = kind or int
        elif _DECIMAL.fullmatch(value) and not value.lstrip("-").isdigit():
            if not math.isfinite(float(value)):
                return None
            kind = float
        else:
            return None
        are_days = are_days and bool(_DAY.fullmatch(value))
    return None if are_days else kind


def _refuse_twins(names: Sequence[str], path: str) -> None:
    """Reject duplicate column names, of which a row could keep only one."""
    if len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns called {twin!r}", reason="bad_table")


def _whole_table(file: Any, content: bytes, path: str) -> Any:
    """Read all rows of a Parquet file, unless they take far more memory than the file size.

    A dictionary-encoded string may occur in a million rows: a file of 299 bytes asked for 20 GB.
    Batches of 256 rows cost 0.35 s per million rows and bound the allocation before each check.
    """
    arrow = require("pyarrow", extra="data")
    limit = FREE_BYTES + MAX_EXPANSION * len(content)
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    taken = max((group.total_byte_size for group in groups), default=0)
    batches = []
    if taken <= limit:
        taken = 0
        for batch in file.iter_batches(batch_size=256):
            taken += batch.nbytes
            if taken > limit:
                break
            batches.append(batch)
    if taken > limit:
        raise DataError(
            f"{path} of {len(content):,} bytes takes more than {limit:,} bytes of memory",
            reason="too_large",
        )
    return arrow.Table.from_batches(batches, schema=file.schema_arrow)


class _Parquet:
    def __init__(self, content: bytes, path: str) -> None:
        arrow = require("pyarrow", extra="data")
        parquet = require("pyarrow.parquet", extra="data")
        try:
            file = parquet.ParquetFile(arrow.BufferReader(content))
            _refuse_twins(file.schema_arrow.names, path)
            table = _whole_table(file, content, path).combine_chunks()
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a Parquet file: {error}", reason="bad_table") from error
        # Python has no nanoseconds: pyarrow would reject them or require pandas.
        for index, column in enumerate(table.schema):
            kind = column.type
            if arrow.types.is_timestamp(kind) and kind.unit == "ns":
                kind = arrow.timestamp("us", kind.tz)
            elif arrow.types.is_duration(kind) and kind.unit == "ns":
                kind = arrow.duration("us")
            if kind != column.type:
                cut = table.column(index).cast(kind, safe=False)
                table = table.set_column(index, column.name, cut)
        self._table = table
        self._path = path
        self._errors = (ValueError, ArithmeticError, arrow.ArrowException)

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, number: int) -> Mapping[str, Any]:
        return {
            name: self._value(number, column)
            for column, name in enumerate(self._table.column_names)
        }

    def _value(self, number: int, column: int) -> Any:
        """Convert a value; Python has no strings that are not UTF-8, and no dates after 9999."""
        try:
            return _as_in_json(self._table.column(column)[number].as_py())
        except self._errors as error:
            raise DataError(
                f"row {number} of {self._path} has a {self._table.column_names[column]} that "
                f"cannot be read: {error}",
                reason="bad_record",
            ) from error


def _as_in_json(value: Any) -> Any:
    """Convert a Parquet value to JSON types: times to ISO 8601, durations to seconds.

    NaN and infinity become None; bytes are unchanged, since they may be an image.
    """
    if isinstance(value, Mapping):
        return {name: _as_in_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_in_json(one) for one in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, UUID):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
