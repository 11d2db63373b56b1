"""Filters: builders, the language and its errors, and both printers against plain Python."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coca.core.errors import ArgumentError
from coca.search.filter_language import MAX_COMPARISONS, MAX_DEPTH, columns_in, parse
from coca.search.filter_printers import literal, quoted, to_milvus, to_sql
from coca.search.filters import (
    IS_HIDDEN,
    NOT_HIDDEN,
    all_of,
    any_of,
    between,
    has_all_tags,
    has_any_tag,
    negate,
    taken,
    where,
)
from coca.search.records import Origin, Record
from filter_oracle import keeps

EXAMPLES = 4 * settings().max_examples
"""More than elsewhere, since a filter is a tree; `HYPOTHESIS_PROFILE=thorough` has more."""

NASTY = ['"', "\\", '\\"', "'", "\n", ") or (1 == 1", '" or id != "', "%", "_", "{x}", "$", "", " "]
"""Characters that end a literal, join expressions, or are wildcards."""
WORDS = [*NASTY, "barbell", "Barbell", "kettlebell", "Ä", "東京", "*", "[a]", "a?c", "\U0001f600"]
NUMBERS: list[int | float] = [-(2**53), -1, 0, 0.5, 1e-7, 2, 2.0, 2.5, 1e16, 2**53, 38.7223456789]
PLACES = ["kind", "a.b c:d-1", 'a "key"] or ["', "", "back\\slash", "ä"]
TAGS = ["cat", 'a "b"', "\\", "new\nline", ""]
VALUES = st.sampled_from([*WORDS, *NUMBERS, True, False])


def records() -> list[Record]:
    """Build records with values of all kinds, missing ones, and nested ones."""
    values: list[Any] = [*WORDS, *NUMBERS, None, True, False, [], {}, ["cat", 2, True, [1]], [2.5]]
    kinds = [
        {},
        *({"kind": value} for value in values),
        *({place: value} for place in PLACES for value in ("barbell", 2, ["cat"], {"in": 2})),
        *({"kind": {place: value}} for place in PLACES for value in ("barbell", 2, ["cat"])),
        {"kind": {"kind": {"kind": [0, "barbell"]}}},
    ]
    return [
        Record(
            id=f"r{n}",
            path=f"{n}.jpg",
            content=f"{n % 5}",
            caption=WORDS[n % len(WORDS)],
            album=WORDS[-(n % 7)],
            width=[0, 1, 640, 2**53][n % 4],
            height=[1, 640][n % 2],
            time=n * 86_400,
            tags=tuple(tag for bit, tag in enumerate(TAGS) if n >> bit & 1),
            hidden=n % 9 == 0,
            metadata=metadata,
            origin=Origin(captioned=n % 3 == 0),
            vector=np.eye(4, dtype=np.float32)[0],
        )
        for n, metadata in enumerate(kinds)
    ]


RECORDS = records()
EVERYTHING = {record.id for record in RECORDS}
TEXT_COLUMNS = ("id", "path", "content", "caption", "caption_source", "album")
NUMBER_COLUMNS = ("width", "height", "time")


def fields_of(record: Record) -> dict[str, Any]:
    return {
        **{name: getattr(record, name) for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS)},
        "hidden": record.hidden,
        "tags": list(record.tags),
        "metadata": record.metadata,
    }


@pytest.fixture(scope="module")
def table() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    rows = [fields_of(record) for record in RECORDS]
    for row in rows:
        row |= {name: json.dumps(row[name]) for name in ("tags", "metadata")}
    connection.execute(f"CREATE TABLE records ({', '.join(rows[0])})")
    marks = ", ".join("?" * len(rows[0]))
    connection.executemany(
        f"INSERT INTO records VALUES ({marks})", [(*row.values(),) for row in rows]
    )
    yield connection
    connection.close()


def in_sqlite(table: sqlite3.Connection, filter: str) -> set[str]:
    condition, parameters = to_sql(parse(filter))
    rows = table.execute(f"SELECT id, {condition} FROM records", parameters).fetchall()
    assert {kept for _, kept in rows} <= {0, 1}
    where = table.execute(f"SELECT id FROM records WHERE {condition}", parameters).fetchall()
    assert {id for id, kept in rows if kept} == {id for (id,) in where}
    return {id for (id,) in where}


def in_python(filter: str) -> set[str]:
    return {record.id for record in RECORDS if keeps(filter, record)}


# Random filters, as texts of the language.


def key(keys: list[str | int]) -> str:
    return "metadata" + "".join(f"[{literal(one)}]" for one in keys)


KEYS = st.builds(
    lambda first, rest: key([first, *rest]),
    st.sampled_from(PLACES),
    st.lists(st.sampled_from([*PLACES, "in", 0, 1]), max_size=2),
)
SIGNS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
MEMBER = st.sampled_from(["in", "not in"])


def comparisons(field: st.SearchStrategy[str], values: list[Any]) -> st.SearchStrategy[str]:
    literals = st.sampled_from(values).map(literal)
    listed = st.lists(literals, max_size=4).map(lambda some: f"[{', '.join(some)}]")
    return st.one_of(
        st.builds("{} {} {}".format, field, SIGNS, literals),
        st.builds("{2} {1} {0}".format, field, SIGNS, literals),
        st.builds("{} {} {}".format, field, MEMBER, listed),
    )


TAG_LISTS = st.lists(st.sampled_from(TAGS), max_size=2).map(
    lambda some: f"[{', '.join(map(quoted, some))}]"
)
VALUE_LISTS = st.lists(VALUES, max_size=3).map(lambda some: f"[{', '.join(map(literal, some))}]")
PATTERNS = st.lists(st.sampled_from([*WORDS, "%", "_", "\\%", "b", "ell"]), max_size=3).map("".join)
LEAVES = st.one_of(
    comparisons(st.sampled_from(["caption", "album", "content"]), WORDS),
    comparisons(st.sampled_from(["width", "height"]), [0, 1, 640, 2**53]),
    comparisons(KEYS, [*WORDS, *NUMBERS]),
    st.builds(
        "{} {} {}".format, KEYS, st.sampled_from(["==", "!="]), st.sampled_from(["true", "False"])
    ),
    st.builds("{} {} {}".format, KEYS, MEMBER, VALUE_LISTS),
    st.builds(
        "{} < {} <= {}".format, st.integers(-9, 9), KEYS | st.just("width"), st.integers(0, 999)
    ),
    st.builds("exists {}".format, KEYS),
    st.builds(
        "{} like {}".format,
        st.sampled_from(["caption", "album"]) | KEYS,
        PATTERNS.map(quoted),
    ),
    st.builds(
        "{}({}, {})".format,
        st.sampled_from(["array_contains_any", "array_contains_all"]),
        st.just("tags"),
        TAG_LISTS,
    ),
    st.builds(
        "{}({}, {})".format,
        st.sampled_from(["json_contains_any", "JSON_CONTAINS_ALL"]),
        KEYS,
        VALUE_LISTS,
    ),
    st.builds("json_contains({}, {})".format, KEYS, VALUES.map(literal)),
    st.sampled_from(
        [IS_HIDDEN, NOT_HIDDEN, "width < height", "height != width", 'caption_source == "model"']
    ),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or", "&&", "||"]), inner),
        st.builds("{} ({})".format, st.sampled_from(["not", "!"]), inner),
    ),
    max_leaves=6,
)


@given(filter=FILTERS)
@settings(max_examples=EXAMPLES)
def test_sqlite_keeps_what_plain_python_keeps(table: sqlite3.Connection, filter: str) -> None:
    kept = in_sqlite(table, filter)
    assert kept == in_python(filter)
    assert in_sqlite(table, negate(filter)) == EVERYTHING - kept


@given(filter=FILTERS)
def test_a_filter_for_milvus_is_in_the_language_and_keeps_the_same_records(filter: str) -> None:
    kept = in_python(filter)
    assert in_python(to_milvus(parse(filter))) == kept
    assert in_python(to_milvus(parse(negate(filter)))) == EVERYTHING - kept


def test_an_empty_filter_keeps_everything(table: sqlite3.Connection) -> None:
    assert to_milvus(parse("  ")) == ""
    assert in_sqlite(table, "") == in_sqlite(table, all_of()) == in_sqlite(table, all_of("", " "))
    assert in_sqlite(table, "") == EVERYTHING
    assert in_sqlite(table, any_of()) == in_sqlite(table, has_any_tag([])) == set()
    assert in_sqlite(table, has_all_tags([])) == EVERYTHING
    for combine in (negate, any_of):
        with pytest.raises(ArgumentError, match="keeps everything"):
            combine(" ")


# Milvus Lite does not tell true from 1, does not order lists and objects, and has no escapes in
# patterns.
LITE_VALUES: list[Any] = [*WORDS, *NUMBERS, None]
LITE_METADATA: list[dict[str, Any]] = [
    {},
    *({"kind": value} for value in LITE_VALUES),
    *({place: value} for place in PLACES for value in ("barbell", 2)),
    *({"gps": {"in": value}} for value in ("barbell", 2)),
    {"people": ["cat", "Ä"]},
    {"people": []},
    {"people": "cat"},
]
LITE_KEYS = st.sampled_from([key([place]) for place in PLACES] + [key(["gps", "in"])])
LITE_PEOPLE = key(["people"])
LITE_LEAVES = st.one_of(
    comparisons(st.sampled_from(["caption", "album"]), WORDS),
    comparisons(st.just("width"), [0, 1, 640, 2**53]),
    comparisons(LITE_KEYS, [*WORDS, *NUMBERS]),
    st.builds("exists {}".format, LITE_KEYS | st.just(LITE_PEOPLE)),
    st.builds(
        "{} like {}".format,
        LITE_KEYS | st.just("caption"),
        st.sampled_from(['"b%"', '"%ell"', '"_"', '"%"']),
    ),
    # Built outside of the strategy: checks of types at run time draw random items of lists.
    st.sampled_from([has_any_tag(some) for some in ([], ["cat"], [*TAGS[:2]], [*TAGS[-2:]])]),
    st.sampled_from(
        [has_all_tags(some, "metadata.people") for some in ([], ["cat"], ["Ä"], ["cat", "Ä"])]
    ),
    st.sampled_from([IS_HIDDEN, NOT_HIDDEN, "width < height", 'caption_source == "model"']),
)
"""Leaves in which Milvus Lite agrees with plain Python."""


@pytest.fixture(scope="module")
def in_lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], set[str]]]:
    milvus = pytest.importorskip("pymilvus")
    client = milvus.MilvusClient(str(tmp_path_factory.mktemp("lite") / "filters.db"))
    schema = client.create_schema()
    schema.add_field("id", milvus.DataType.VARCHAR, is_primary=True, max_length=64)
    for name in TEXT_COLUMNS[1:]:
        schema.add_field(name, milvus.DataType.VARCHAR, max_length=4_096)
    for name in NUMBER_COLUMNS:
        schema.add_field(name, milvus.DataType.INT64)
    schema.add_field("hidden", milvus.DataType.BOOL)
    schema.add_field("metadata", milvus.DataType.JSON)
    schema.add_field(
        "tags",
        milvus.DataType.ARRAY,
        element_type=milvus.DataType.VARCHAR,
        max_capacity=256,
        max_length=512,
    )
    schema.add_field("vector", milvus.DataType.FLOAT_VECTOR, dim=4)
    client.create_collection("records", schema=schema)
    client.insert(
        "records", [fields_of(record) | {"vector": [1.0, 0, 0, 0]} for record in lite_records()]
    )

    def kept(filter: str) -> set[str]:
        rows = client.query(
            "records", filter=to_milvus(parse(filter)), output_fields=["id"], limit=1_000
        )
        return {row["id"] for row in rows}

    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_index("records", index)
    client.load_collection("records")
    yield kept
    client.close()


def lite_records() -> list[Record]:
    return [
        replace(RECORDS[n % len(RECORDS)], id=f"r{n}", metadata=metadata)
        for n, metadata in enumerate(LITE_METADATA)
    ]


@given(
    filter=st.recursive(
        LITE_LEAVES,
        lambda inner: st.builds("not ({}) or ({}) and ({})".format, inner, inner, inner),
        max_leaves=5,
    )
)
def test_milvus_lite_keeps_what_plain_python_keeps(
    in_lite: Callable[[str], set[str]], filter: str
) -> None:
    every = lite_records()
    kept = {record.id for record in every if keeps(filter, record)}
    assert in_lite(filter) == kept
    assert in_lite(negate(filter)) == {record.id for record in every} - kept


# Builders.


@given(value=st.text(st.characters(exclude_categories=["Cs"]), max_size=12), leaf=LEAVES)
def test_no_value_widens_a_filter(table: sqlite3.Connection, value: str, leaf: str) -> None:
    either = any_of(where("metadata.kind", "==", value), where(f"metadata.{value}", "<", 2), leaf)
    assert in_sqlite(table, all_of(where("id", "==", "r1"), either)) <= {"r1"}
    exact = all_of(where("caption", "==", value), has_any_tag([value]))
    assert in_sqlite(table, exact) == in_python(exact)
    assert in_sqlite(table, where("id", "in", [value, "r2"])) == {"r2"}


def test_builders_write_the_language(table: sqlite3.Connection) -> None:
    assert where("metadata.year", ">", 2020) == 'metadata["year"] > 2020'
    assert where("caption", "like", "%car%") == 'caption like "%car%"'
    assert between("width", 1, None) == "width >= 1"
    assert between("width", 1, 640) == "(width >= 1) and (width <= 640)"
    assert has_any_tag(["a"], "metadata.people") == 'array_contains_any(metadata["people"], ["a"])'
    own = 'id == "r1" or id == "r2"'
    assert all_of("", own) == own
    assert in_sqlite(table, all_of(own, where("id", "!=", "r1"))) == {"r2"}
    ids = [f"r{n}" for n in range(40_000)]
    assert in_sqlite(table, where("id", "in", ids)) == EVERYTHING


def test_a_day_has_all_of_its_seconds_and_no_time_is_no_day(table: sqlite3.Connection) -> None:
    assert in_sqlite(table, taken(since=date(1970, 1, 4), until=date(1970, 1, 5))) == {"r3", "r4"}
    assert in_sqlite(table, taken(until=date(1970, 1, 2))) == {"r1"}
    assert "time <= -1)" in taken(until=date(1969, 12, 31))
    noon = datetime(1970, 1, 4, 12)
    assert in_sqlite(table, taken(since=noon, until=datetime(1970, 1, 5))) == {"r4"}
    elsewhere = datetime(1970, 1, 5, 2, tzinfo=timezone(timedelta(hours=2)))
    with pytest.raises(ArgumentError, match=r"without a zone, such as 1970-01-05T02:00:00, got"):
        taken(until=elsewhere)
    with pytest.raises(ArgumentError, match="the end comes first"):
        taken(since=date(1970, 1, 5), until=date(1970, 1, 4))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("vector", "==", 1), "no filter on 'vector': fields are id, path"),
        (("width > 0 or id", "==", 1), "no filter on"),
        (("tags", "==", "x"), "tags have array_contains"),
        (("caption", "~", "x"), "no operator '~'"),
        (("caption", "in", "x"), "needs a list"),
        (("caption", "not in", 3), "needs a list"),
        (("caption", "==", 3), "compared with texts, got 3"),
        (("width", ">", 1.5), "compared with whole numbers, got 1.5"),
        (("width", ">", True), "compared with whole numbers, got True"),
        (("width", "<", 2**63), "too large"),
        (("hidden", "==", 1), "compared with true or false"),
        (("hidden", "<", True), "no order"),
        (("metadata.x", "<", True), "no order"),
        (("metadata.x", "like", 3), "`like` needs a text"),
        (("caption_source", "==", "everyday"), "caption_source is one of 'given', 'model', ''"),
        (("metadata.x", "==", float("inf")), "not inf"),
        (("metadata.x", "==", "\ud800"), "not valid Unicode"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(arguments: Any, fault: str) -> None:
    with pytest.raises(ArgumentError, match=fault):
        where(*arguments)


def test_one_text_is_no_list_of_tags() -> None:
    for function in (has_any_tag, has_all_tags):
        with pytest.raises(ArgumentError, match="list of texts"):
            function("cat")


@pytest.mark.parametrize(
    ("filter", "fault"),
    [
        (
            "limt > 3",
            r"character 1, 'limt > 3': no such column; columns are id, path, .* tags and",
        ),
        ("width > 3 and", "character 14: expected a text in quotes"),
        ("width = 3", "character 7, '= 3': no such operator; operators are =="),
        ("width > 3 width", "expected `and`, `or` or the end"),
        ("(width > 3", r"expected `\)`"),
        ("width > 3)", "expected `and`"),
        ("id == 'r1", "no closing quote"),
        ('id == "r\\q"', "unknown escape"),
        ("width", "expected a comparison"),
        ("1 < 2", "one side of a comparison must be a column"),
        ("1 < width > 3", "a chain is a range"),
        ("width < height < 3", "a chain is a range"),
        ("width < metadata['x']", "columns compared with each other are width, height, time"),
        ("metadata > 3", "metadata needs 1 to 8 keys"),
        ("metadata[0] > 3", "metadata needs 1 to 8 keys"),
        ("metadata['x'][-1] > 3", "a position from 0"),
        ("exists width", "expected a key of the metadata"),
        ("array_contains(tags, 3)", "tags are texts"),
        ("array_contains_any(tags, 'a')", r"expected `\[`"),
        ("metadata['x'] not 3", "expected `in`"),
        ("metadata['x'] == 1e999", "too large"),
        ("metadata['x'] == -9223372036854775808", "too large"),
        (f"metadata['x'] == {'9' * 5_000}", "too large"),
        ("metadata['x'] == -1234567890123456789012", "too large"),
        (f"id like '{'a' * 5_000}'", "at most 4,096"),
        ("(" * 40 + "width > 3" + ")" * 40, f"nested {MAX_DEPTH} deep"),
        ("not " * 40 + "width > 3", f"nested {MAX_DEPTH} deep"),
        (" or ".join(["width > 3"] * 501), "may have 500 comparisons"),
        (f"id == '{'a' * 2_000_000}'", "at most 2,000,000"),
    ],
)
def test_a_text_outside_the_language_is_refused_in_one_sentence(filter: Any, fault: str) -> None:
    with pytest.raises(ArgumentError, match=fault) as raised:
        parse(filter)
    assert len(str(raised.value)) < 250
    assert "\n" not in str(raised.value)


@given(text=st.text(st.sampled_from("\"'\\ \n()[]!=<>&|.,-3ea") | st.characters(), max_size=20))
@settings(max_examples=EXAMPLES)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for filter in (text, f"id == {text}", f"metadata{text}"):
        try:
            parse(filter)
        except ArgumentError:
            continue
        with pytest.raises(ArgumentError):
            all_of(filter, f"{filter})")


def test_the_largest_filters_run_on_sqlite(table: sqlite3.Connection) -> None:
    place = key(["back\\slash"] * 8)
    wide = " or ".join([f"{place} == {n}.5" for n in range(MAX_COMPARISONS)])
    assert in_sqlite(table, wide) == set()
    deep = "(width == 1 or " * MAX_DEPTH + "width == 0" + ")" * MAX_DEPTH
    assert in_sqlite(table, deep) == in_python("width in [0, 1]")
    assert in_sqlite(table, f"caption like {quoted('%*' * 2_048)}") == set()


def test_literals_have_several_forms() -> None:
    assert parse(r'id == "a\"\\\'\n\t"') == parse(r"id == 'a\"\\\'\n\t'")
    assert parse('id == "\n"') == parse(r'id == "\n"')
    assert parse(f"width > -{'0' * 5_000}7") == parse("width > -7")


def test_columns_of_a_filter_are_known() -> None:
    filter = 'not (path like "a%") and (width < height or exists metadata["id"]) and hidden == true'
    assert columns_in(parse(filter)) == {"path", "width", "height", "metadata", "hidden"}
    assert columns_in(parse("caption == 'path'")) == {"caption"}
