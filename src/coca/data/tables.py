"""Tables whose rows are parsed only when they are read: JSON lines, CSV (also by tabs), Parquet."""

import csv
import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

import numpy as np

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.data.sample import parse_record, parse_text
from coca.data.sources import PartConfig

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""What the files of tables end in."""

Wanted: TypeAlias = Mapping[str, str | int | tuple[str | int, ...]]
"""Columns, and the value or values that a row must have there."""


@runtime_checkable
class Table(Protocol):
    """Rows by number, each parsed only when it is read."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> Mapping[str, Any]:
        """Names of columns to values that JSON can hold, or bytes.

        Raises:
            DataError: The row is damaged.
        """
        ...


def select(table: Table, where: Wanted, path: str) -> Table:
    """The rows that have the wanted values, which are compared as they are written.

    A damaged row stays in, so that whoever reads it learns of it.

    Raises:
        ConfigError: No row has them; the message tells the values that there are.
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
    """The rows of a part; a damaged row stays in, as in `select`.

    Raises:
        ConfigError: The column is missing, or too few different values leave the part empty.
    """
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
    first, last = (round(share * len(different)) for share in (part.start, part.end))
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


class _Selected:
    def __init__(self, table: Table, rows: Sequence[int]) -> None:
        self._table = table
        self._rows = np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Mapping[str, Any]:
        return self._table.row(int(self._rows[number]))


def open_table(content: bytes, path: str) -> Table:
    """The table in the bytes of a file, whose name tells its kind.

    Raises:
        DataError: It is damaged, or of an unknown kind.
        MissingExtraError: Parquet needs the extra `data`.
    """
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


class _JsonLines:
    def __init__(self, content: bytes, path: str) -> None:
        self._content = content
        self._path = path
        # Only where the lines stand is kept, not what they say; a `\r` before the break is blank.
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
        text = parse_text(content, path).removeprefix("\ufeff")
        first_line = text.partition("\n")[0]
        # Tabs are told by the header, since such files often end in .csv all the same.
        delimiter = "\t" if "\t" in first_line and "," not in first_line else ","
        self._path = path
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            self._names = next(rows, [])
            self._rows = [row for row in rows if row]
        except csv.Error as error:
            raise DataError(f"{path} is no CSV: {error}", reason="bad_table") from error

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


class _Parquet:
    def __init__(self, content: bytes, path: str) -> None:
        arrow = require("pyarrow", extra="data")
        parquet = require("pyarrow.parquet", extra="data")
        try:
            table = parquet.read_table(arrow.BufferReader(content)).combine_chunks()
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is no Parquet file: {error}", reason="bad_table") from error
        # Python knows no nanoseconds: pyarrow would refuse them, or ask for pandas.
        for place, column in enumerate(table.schema):
            kind = column.type
            if arrow.types.is_timestamp(kind) and kind.unit == "ns":
                kind = arrow.timestamp("us", kind.tz)
            elif arrow.types.is_duration(kind) and kind.unit == "ns":
                kind = arrow.duration("us")
            if kind != column.type:
                cut = table.column(place).cast(kind, safe=False)
                table = table.set_column(place, column.name, cut)
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, number: int) -> Mapping[str, Any]:
        return _as_in_json(self._table.slice(number, 1).to_pylist()[0])


def _as_in_json(value: Any) -> Any:
    """A value of Parquet as JSON would write it: moments by ISO 8601, lengths of time in seconds.

    What is no number is nothing; bytes stay, as they may be a picture.
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
