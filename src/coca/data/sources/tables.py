"""Tables whose rows are parsed only when they are read: JSON lines, CSV (also by tabs), Parquet."""

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

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.data.sample import parse_record, parse_text
from coca.data.sources.base import PartConfig

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""What the files of tables end in."""

FREE_BYTES, MAX_EXPANSION = 256 << 20, 200
"""Memory that any Parquet file may take, and what it may take besides for each of its bytes."""

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


def rows_of(table: Table) -> Int64[np.ndarray, " N"]:
    """The numbers that the rows of a selected table have in the whole one."""
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


def numeric_columns(table: Table) -> dict[str, type[int] | type[float]]:
    """The columns of a CSV that hold numbers, since a CSV itself holds texts only.

    A column is one of numbers if each of its values is: whole ones such as `2018` or `-3`, or, if
    any of them has a point or exponent, decimal ones such as `0.5` or `1e-3`; empty values are
    missing numbers. All else stays text: a column with any other value, with zeros in front
    (`007`), with whole numbers of more than 15 digits (ids), and a `time` of eight-digit days
    (`20240531`). Other kinds of tables know the types of their values, and none is listed here.
    """
    return table.numbers() if isinstance(table, _Csv) else {}


def as_number(value: str, kind: type[int] | type[float]) -> int | float | None:
    """A value of such a column; None where it is empty."""
    return kind(value) if value else None


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
        """See `numeric_columns`; damaged rows do not count."""
        rows = [row for row in self._rows if len(row) == len(self._names)]
        kinds = {
            name: _number_kind((row[place] for row in rows), is_time=name == "time")
            for place, name in enumerate(self._names)
        }
        return {name: kind for name, kind in kinds.items() if kind is not None}


_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
_DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DAY = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")


def _number_kind(values: Iterable[str], *, is_time: bool) -> type[int] | type[float] | None:
    """What turns each of the values into a number; None if they are texts."""
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
    """Refuse two columns of one name, of which a row could hold one only."""
    if len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns called {twin!r}", reason="bad_table")


def _whole_table(file: Any, content: bytes, path: str) -> Any:
    """All rows of a Parquet file, unless they take far more memory than the file is large.

    A text that a dictionary holds once may stand in a million rows: 299 bytes asked for 20 GB.
    Batches of 256 rows cost 0.35 s in a million rows, and bound what is taken before it is counted.
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
        self._path = path
        self._errors = (ValueError, ArithmeticError, arrow.ArrowException)

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, number: int) -> Mapping[str, Any]:
        return {
            name: self._value(number, place) for place, name in enumerate(self._table.column_names)
        }

    def _value(self, number: int, place: int) -> Any:
        """A value; Python cannot hold texts that are not UTF-8, nor days after the year 9999."""
        try:
            return _as_in_json(self._table.column(place)[number].as_py())
        except self._errors as error:
            raise DataError(
                f"row {number} of {self._path} has a {self._table.column_names[place]} that cannot "
                f"be read: {error}",
                reason="bad_record",
            ) from error


def _as_in_json(value: Any) -> Any:
    """A value of Parquet as JSON would write it: moments by ISO 8601, lengths of time in seconds.

    What is no number is nothing; bytes stay, as they may be an image.
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
